"""PEFT's LoraConfig as a file carries it: what it says of an adapter's scale.

Owns which of its fields are understood. peft writes them as `adapter_config.json` beside the file,
diffusers as `lora_adapter_metadata` in the header. Everything that would make the product something
else than scale * B A is refused by the field's name. A module's scale is lora_alpha / r, or
lora_alpha / sqrt(r) under rsLoRA (https://arxiv.org/abs/2312.03732).
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

_PLAIN_INITIALISATIONS: Final = (
    None, True, False, "true", "false", "gaussian", "eva", "orthogonal",
)  # fmt: skip
"""Values of `init_lora_weights` that leave the base weights as they are; PiSSA, OLoRA, LoftQ and
others also change those, which an adapter file cannot carry. peft writes True for an adapter that
it has converted to a plain one."""


class Pattern:
    """Values for modules that are named by their path, or by the end of it.

    `^` before a path stands for the whole of it. Of several entries that name a module the first
    one counts, as in peft's get_pattern_key.
    """

    def __init__(self, entries: Mapping[str, float]) -> None:
        self._entries: dict[str, tuple[int, float]] = {}
        for n, (key, value) in enumerate(entries.items()):
            start, path = ("^", key[1:]) if key.startswith("^") else ("", key)
            self._entries.setdefault(f"{start}{strip_wrappers(path)}", (n, value))

    def get(self, module: str) -> float | None:
        """The value for the module of this path."""
        # Looked up by the module's few endings: a hostile file has 150,000 entries.
        ends = [module, *(module[n + 1 :] for n, c in enumerate(module) if c == ".")]
        found = [self._entries[key] for key in (f"^{module}", *ends) if key in self._entries]
        return min(found)[1] if found else None


@dataclass(frozen=True, slots=True)
class PeftConfig:
    """A configuration of plain LoRA, as far as it decides the scale."""

    source: str
    """Where it is written, as a reason names it."""
    rank: float | None
    """None if it is not written: each module's own."""
    alpha: float
    rank_pattern: Pattern
    alpha_pattern: Pattern
    rank_stabilised: bool

    def scale(self, module: str, rank: int) -> float:
        """Scale of `module`, whose factors have `rank`; `LoraError` if the two disagree."""
        said = self.rank_pattern.get(module)
        said = self.rank if said is None else said
        if said is not None and said != rank:
            raise LoraError(
                f"{self.source} gives rank {said:g} for {module} and its weights have rank {rank}; "
                "export the LoRA again"
            )
        alpha = self.alpha_pattern.get(module)
        alpha = check_alpha(self.alpha if alpha is None else alpha, self.source)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_peft_config(config: Mapping[str, Any], source: str) -> PeftConfig:
    """The scale that a LoraConfig gives.

    Args:
        config: its fields. Those that are missing have LoraConfig's defaults, but for the rank.
        source: where it is written, as a reason names it.

    Raises:
        LoraError: a field is unreadable, or makes it anything but plain LoRA.
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
    alpha = _number(config, "lora_alpha", source)
    return PeftConfig(
        source,
        rank=_number(config, "r", source),
        alpha=_DEFAULT_ALPHA if alpha is None else alpha,
        rank_pattern=_pattern(config, "rank_pattern", source),
        alpha_pattern=_pattern(config, "alpha_pattern", source),
        rank_stabilised=_is_true(config, "use_rslora", source),
    )


def is_set(value: object) -> bool:
    """Returns False for what stands for "not used": nothing, empty, "none", "false"."""
    text = value.strip().lower() if isinstance(value, str) else value
    return bool(text) and text not in ("none", "null", "false", "0", "[]", "{}")


def _number(config: Mapping[str, Any], field: str, source: str) -> float | None:
    """The field's number; None if there is no such field."""
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
        # peft takes these as regular expressions; one from a stranger's file is never run.
        if not re.fullmatch(r"\^?[\w.]+\$?", key):
            raise LoraError(
                f"{field} of {source} holds the expression {shown(key)!r} instead of a module's "
                "name; export the LoRA with names"
            )
        number = read_number(value, f"{field} of {source} for {key}")
        if number is not None:
            entries[key.removesuffix("$")] = number
    return Pattern(entries)
