"""Reads PEFT's LoraConfig, which decides an adapter's scale.

peft writes it as `adapter_config.json` beside the file, diffusers as `lora_adapter_metadata` into
the header. A field that makes the product anything but scale * B A is refused by its name. A
module's scale is lora_alpha / r, or lora_alpha / sqrt(r) under rsLoRA
(https://arxiv.org/abs/2312.03732).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wuliart_lora.alpha import check_alpha, read_number
from wuliart_lora.errors import LoraError, shown, shown_value
from wuliart_lora.keys import strip_wrappers

_DEFAULT_ALPHA: Final = 8
"""LoraConfig's default of `lora_alpha`."""

_OTHER_FORMULAS: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
    "alora_invocation_tokens",
    "layer_replication",
    "fan_in_fan_out",
    "lora_bias",
    "modules_to_save",
    "target_parameters",
    "trainable_token_indices",
)
"""Fields of LoraConfig that, when set, make the product something else than scale * B A."""

METHOD_FIELDS: Final = ("peft_type", "bias", "init_lora_weights", *_OTHER_FORMULAS)
"""Fields of LoraConfig that `check_plain_lora` looks at."""

_PLAIN_INITIALISATIONS: Final = (
    None, True, False, "true", "false", "gaussian", "eva", "orthogonal",
)  # fmt: skip
"""Values of `init_lora_weights` that leave the base weights as they are. PiSSA, OLoRA, LoftQ and
others also change the base weights, and an adapter file does not contain that change. peft writes
True for an adapter that it has converted to a plain one."""


class Pattern:
    """Values of modules, each named by its path or by the last parts of it.

    An entry that begins with `^` gives the whole path. Of several entries that name a module the
    first one counts, as in peft's get_pattern_key.
    """

    def __init__(self, entries: Mapping[str, float]) -> None:
        self._entries: dict[str, tuple[int, float]] = {}
        for n, (key, value) in enumerate(entries.items()):
            start, path = ("^", key[1:]) if key.startswith("^") else ("", key)
            self._entries.setdefault(f"{start}{strip_wrappers(path)}", (n, value))

    def get(self, module: str) -> float | None:
        """Returns the value of the module at this path, None if no entry names it."""
        # Looked up by the module's few endings: a hostile file may have 150,000 entries.
        ends = [module, *(module[n + 1 :] for n, c in enumerate(module) if c == ".")]
        found = [self._entries[key] for key in (f"^{module}", *ends) if key in self._entries]
        return min(found)[1] if found else None


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """The fields of a plain LoRA's configuration that decide the scale."""

    source: str
    """Origin of the configuration, as error messages name it."""
    rank: float | None
    """None if it is not written: each module has its own."""
    alpha: float
    rank_pattern: Pattern
    alpha_pattern: Pattern
    rank_stabilised: bool

    def scale(self, module: str, rank: int) -> float:
        """Returns the scale of `module`, whose factors have `rank`.

        Raises:
            LoraError: the configuration gives the module another rank, or alpha is out of range.
        """
        given = self.rank_pattern.get(module)
        given = self.rank if given is None else given
        if given is not None and given != rank:
            raise LoraError(
                f"{self.source} gives rank {given:g} for {module} and its weights have rank "
                f"{rank}; export the LoRA again"
            )
        alpha = self.alpha_pattern.get(module)
        alpha = check_alpha(self.alpha if alpha is None else alpha, self.source)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_peft_config(config: Mapping[str, Any], source: str) -> PeftConfig:
    """Reads the fields of a LoraConfig that decide the scale.

    Args:
        config: its fields. Missing ones have LoraConfig's defaults, except for the rank.
        source: where it is written, as an error names it.

    Raises:
        LoraError: a field is unreadable, or belongs to another method than plain LoRA.
    """
    check_plain_lora(config, source)
    alpha = _number(config, "lora_alpha", source)
    return PeftConfig(
        source,
        rank=_number(config, "r", source),
        alpha=_DEFAULT_ALPHA if alpha is None else alpha,
        rank_pattern=_pattern(config, "rank_pattern", source),
        alpha_pattern=_pattern(config, "alpha_pattern", source),
        rank_stabilised=_is_true(config, "use_rslora", source),
    )


def check_plain_lora(config: Mapping[str, Any], source: str) -> None:
    """Raises `LoraError` if fields of a LoraConfig belong to another method than plain LoRA.

    Args:
        config: the fields, as far as they are there.
        source: where they are written, as an error names it.
    """
    kind = config.get("peft_type")
    plain = isinstance(kind, str) and kind.rpartition(".")[2].upper() == "LORA"
    if kind is not None and not plain:
        raise LoraError(
            f"{source} says that this is {shown_value(kind)}, and only plain LoRA (A and B "
            "matrices) is understood; merge it into a plain LoRA"
        )
    for field, value in config.items():
        known = field in _OTHER_FORMULAS
        if (known or (field.startswith("use_") and field != "use_rslora")) and is_set(value):
            raise LoraError(
                f"{source} sets {shown(field)}, and only plain LoRA (A and B matrices) is "
                "understood; merge it into a plain LoRA"
            )
    if is_set(bias := config.get("bias")):
        raise LoraError(
            f"{source} sets bias to {shown_value(bias)}, which changes biases too, and only "
            "plain LoRA (A and B matrices) is understood; train it with bias none"
        )
    started = config.get("init_lora_weights")
    if (started.lower() if isinstance(started, str) else started) not in _PLAIN_INITIALISATIONS:
        raise LoraError(
            f"{source} says that the LoRA was started with {shown_value(started)}, which "
            "changes the base weights too; convert it to a plain LoRA with peft's "
            "path_initial_model_for_weight_conversion"
        )


def is_set(value: object) -> bool:
    """Returns False for values that mean "not used": None, empty, "none", "false"."""
    text = value.strip().lower() if isinstance(value, str) else value
    return bool(text) and text not in ("none", "null", "false", "0", "[]", "{}")


def _number(config: Mapping[str, Any], field: str, source: str) -> float | None:
    """Returns the field's number, None if there is no such field."""
    if field not in config:
        return None
    number = read_number(config[field], f"{field} of {source}")
    if number is None:
        raise LoraError(f"{field} of {source} is empty; export the LoRA again")
    return number


def _is_true(config: Mapping[str, Any], field: str, source: str) -> bool:
    value = config.get(field)
    if not is_set(value):
        return False
    text = value.strip().lower() if isinstance(value, str) else value
    if text not in (True, "true", "1"):
        raise LoraError(
            f"{field} of {source} is {shown_value(value)} and should be true or false; "
            "export the LoRA again"
        )
    return True


def _pattern(config: Mapping[str, Any], field: str, source: str) -> Pattern:
    pattern = config.get(field) or {}
    if not isinstance(pattern, dict):
        raise LoraError(f"{field} of {source} is not a table; export the LoRA again")
    entries = {}
    for key, value in pattern.items():
        # peft takes these as regular expressions. One from an untrusted file is never run.
        if not re.fullmatch(r"\^?[\w.]+\$?", key):
            raise LoraError(
                f"{field} of {source} holds the expression {shown(key)!r} instead of a module's "
                "name; export the LoRA with names"
            )
        number = read_number(value, f"{field} of {source} for {key}")
        if number is not None:
            entries[key.removesuffix("$")] = number
    return Pattern(entries)
