"""Reads PEFT's LoraConfig, LoHaConfig or LoKrConfig, which decides an adapter's scale.

peft writes it as `adapter_config.json` beside the file, diffusers as `lora_adapter_metadata` into
the header. A field that makes the product anything but the scale times the factors' own is refused
by its name. A LoRA's scale is lora_alpha / r, or lora_alpha / sqrt(r) under rsLoRA
(https://arxiv.org/abs/2312.03732); a LoHa's and a LoKr's is alpha / r (peft/tuners/loha/layer.py,
lokr/layer.py), also where both factors of a LoKr are whole: PEFT alone counts alpha there.
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
from wuliart_lora.module_shapes import LOHA, LOKR, LORA, Form

_METHODS: Final = {method.upper(): method for method in (LORA, LOHA, LOKR)}
"""By peft_type."""

_ALPHAS: Final = {LORA: "lora_alpha", LOHA: "alpha", LOKR: "alpha"}
"""The methods that are read -> the field with their alpha."""

_DEFAULT: Final = 8
"""The default of these fields, and of `r`."""

_HARMLESS: Final = {
    LORA: "use_rslora", LOHA: "use_effective_conv2d", LOKR: "use_effective_conv2d",
}  # fmt: skip
"""The one `use_` field of each method that is no other formula: rsLoRA is read, and the other one
concerns convolutions, of which this model has none."""

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
"""Fields that, when set, make the product something else than the scale times the factors' own."""

METHOD_FIELDS: Final = ("peft_type", "bias", "init_lora_weights", *_OTHER_FORMULAS)
"""Fields of LoraConfig that `check_method` looks at."""

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
    """The fields of a configuration that decide the scale."""

    source: str
    """Origin of the configuration, as error messages name it."""
    rank: float | None
    """None if it is not written: each module has its own."""
    alpha: float
    rank_pattern: Pattern
    alpha_pattern: Pattern
    rank_stabilised: bool
    method: str | None = None
    """`LORA`, `LOHA` or `LOKR`; None if it is not written."""

    def scale(self, module: str, form: Form) -> float | None:
        """Returns the scale of `module`; None if it has none.

        Raises:
            LoraError: the configuration gives the module another method or rank, or alpha is out
                of range.
        """
        if form.method is None:
            return None
        if self.method not in (None, form.method):
            raise LoraError(
                f"{self.source} says that this is a {self.method} and the file holds "
                f"{form.method} factors at {module}; export the LoRA again, with its own "
                "configuration"
            )
        given = self.rank_pattern.get(module)
        given = self.rank if given is None else given
        rank = form.factor
        if not rank:
            if self.method != LOKR:
                return None
            rank = _DEFAULT if given is None else int(given)
        if given is not None and (given != rank or rank < 1):
            raise LoraError(
                f"{self.source} gives rank {given:g} for {module} and its weights have rank "
                f"{rank}; export the LoRA again"
            )
        alpha = self.alpha_pattern.get(module)
        alpha = check_alpha(self.alpha if alpha is None else alpha, self.source)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_peft_config(config: Mapping[str, Any], source: str) -> PeftConfig:
    """Reads the fields of a configuration that decide the scale.

    Args:
        config: its fields. Missing ones have the defaults of their class, except for the rank.
        source: where it is written, as an error names it.

    Raises:
        LoraError: a field is unreadable, or belongs to another method.
    """
    method = check_method(config, source, tuple(_METHODS.values()))
    alpha = _number(config, _ALPHAS[method or LORA], source)
    return PeftConfig(
        source,
        rank=_number(config, "r", source),
        alpha=_DEFAULT if alpha is None else alpha,
        rank_pattern=_pattern(config, "rank_pattern", source),
        alpha_pattern=_pattern(config, "alpha_pattern", source),
        rank_stabilised=_is_true(config, "use_rslora", source),
        method=method,
    )


def check_method(
    config: Mapping[str, Any], source: str, accepted: tuple[str, ...] = (LORA,)
) -> str | None:
    """Checks the fields of a configuration that say what is done with the factors.

    Args:
        config: the fields, as far as they are there.
        source: where they are written, as an error names it.
        accepted: the methods that may be meant.

    Returns:
        The method; None if it is not written, as in configurations of LoRAs only.

    Raises:
        LoraError: a field belongs to another method.
    """
    kind = config.get("peft_type")
    method = _METHODS.get(kind.rpartition(".")[2].upper()) if isinstance(kind, str) else None
    if kind is not None and method not in accepted:
        raise LoraError(
            f"{source} says that this is {shown_value(kind)}, and only {' or '.join(accepted)} "
            "can stand there; merge it into a plain LoRA"
        )
    for field, value in config.items():
        other = field.startswith("use_") and field != _HARMLESS[method or LORA]
        if (field in _OTHER_FORMULAS or other) and is_set(value):
            raise LoraError(
                f"{source} sets {shown(field)}, which is not understood: only the method's plain "
                "formula is; merge it into a plain LoRA"
            )
    if is_set(bias := config.get("bias")):
        raise LoraError(
            f"{source} sets bias to {shown_value(bias)}, which changes biases too; "
            "train it with bias none"
        )
    started = config.get("init_lora_weights")
    if (started.lower() if isinstance(started, str) else started) not in _PLAIN_INITIALISATIONS:
        raise LoraError(
            f"{source} says that the LoRA was started with {shown_value(started)}, which "
            "changes the base weights too; convert it to a plain LoRA with peft's "
            "path_initial_model_for_weight_conversion"
        )
    return method


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
