"""Where an adapter's strength is written, and what it comes to for each module.

Owns alpha: as a tensor beside the factors, or as PEFT's configuration in the metadata. Knows no
weights. A module's product is scaled by alpha / rank, by alpha / sqrt(rank) under rsLoRA
(https://arxiv.org/abs/2312.03732), and by 1 where no alpha is written: the convention of diffusers
and PEFT. kohya's `ss_network_alpha` is a record of the training, not an instruction: stock
diffusers ignores it, and so do converters that fold alpha into the weights and keep the notes.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wuliart.lora.errors import LoraRefused, shown

METADATA_KEY: Final = "lora_adapter_metadata"
"""Where diffusers' save_lora_weights writes PEFT's LoraConfig, each field under `transformer.`."""

_COMPONENT: Final = "transformer."

_PEFT_DEFAULT: Final = 8
"""LoraConfig's default of both `r` and `lora_alpha`."""

MAX_ALPHA: Final = 1e6

_OTHER_FORMULAS: Final = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "alora_invocation_tokens",
    "layer_replication",
    "fan_in_fan_out",
)
"""Fields of LoraConfig that, when set, make the product something else than scale * B A."""

_PLAIN_INITIALISATIONS: Final = (None, True, False, "gaussian", "eva", "orthogonal")
"""Values of `init_lora_weights` that leave the base weights as they are; PiSSA, OLoRA and others
also change those, which an adapter file cannot carry."""


def check_alpha(alpha: float, where: str) -> float:
    """`alpha` if it is usable, else `LoraRefused`, naming the key `where` it is written."""
    if not 0 < alpha <= MAX_ALPHA:  # also false for NaN
        raise LoraRefused(
            f"alpha is {alpha:g} at {shown(where)!r}; it must be above 0 and at most "
            f"{MAX_ALPHA:,.0f}: export the LoRA again"
        )
    return alpha


class Pattern:
    """Values for modules that are named by their path, or by the end of it.

    `^` before a path stands for the whole of it. Of several entries that name a module the first
    one counts, as in peft's get_pattern_key.
    """

    def __init__(self, entries: Mapping[str, float]) -> None:
        self._entries = {key: (n, value) for n, (key, value) in enumerate(entries.items())}

    def get(self, module: str, default: float) -> float:
        """The value for the module of this path."""
        # Looked up by the module's few endings: a hostile file has 150,000 entries.
        ends = [module, *(module[n + 1 :] for n, c in enumerate(module) if c == ".")]
        found = [self._entries[key] for key in (f"^{module}", *ends) if key in self._entries]
        return min(found)[1] if found else default


@dataclass(frozen=True, slots=True)
class PeftScales:
    """PEFT's configuration of an adapter, as far as it decides the scale."""

    rank: int
    alpha: float
    rank_pattern: Pattern
    alpha_pattern: Pattern
    rank_stabilised: bool

    def scale(self, module: str, rank: int) -> float:
        """Scale of `module`, whose factors have `rank`; `LoraRefused` if the two disagree."""
        said = self.rank_pattern.get(module, self.rank)
        if said != rank:
            raise LoraRefused(
                f"the metadata gives rank {said:g} for {module} and its weights have rank {rank}; "
                "export the LoRA again"
            )
        alpha = check_alpha(self.alpha_pattern.get(module, self.alpha), METADATA_KEY)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_peft_scales(metadata: Mapping[str, str]) -> PeftScales | None:
    """PEFT's configuration from a file's metadata, None if it has none.

    Raises `LoraRefused` for a configuration that is unreadable, or that describes anything but
    plain LoRA.
    """
    raw = metadata.get(METADATA_KEY)
    if not raw:
        return None
    try:
        written = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _unreadable("it is not JSON") from error
    if not isinstance(written, dict):
        raise _unreadable("it is not a JSON object")
    # transformer.save_lora_adapter writes the fields bare, the pipeline with the component's name.
    config: dict[str, Any] = {
        key.removeprefix(_COMPONENT): value
        for key, value in written.items()
        if key.startswith(_COMPONENT)
    } or written
    if "r" not in config and "lora_alpha" not in config:
        raise _unreadable("it says nothing about the transformer")
    for field in _OTHER_FORMULAS:
        if config.get(field):
            raise LoraRefused(
                f"the metadata sets {field}, and only plain LoRA (A and B matrices) is understood; "
                "merge it into a plain LoRA"
            )
    initialisation = config.get("init_lora_weights")
    if initialisation not in _PLAIN_INITIALISATIONS:
        raise LoraRefused(
            f"the LoRA was started with {shown(str(initialisation))}, which changes the base "
            "weights too; convert it to a plain LoRA with peft's path_initial_model_for_weight_"
            "conversion"
        )
    return PeftScales(
        rank=int(_number(config.get("r", _PEFT_DEFAULT), "r")),
        alpha=_number(config.get("lora_alpha", _PEFT_DEFAULT), "lora_alpha"),
        rank_pattern=_pattern(config, "rank_pattern"),
        alpha_pattern=_pattern(config, "alpha_pattern"),
        rank_stabilised=bool(config.get("use_rslora", False)),
    )


def _unreadable(what: str) -> LoraRefused:
    return LoraRefused(f"the metadata's {METADATA_KEY} is unreadable: {what}; export it again")


def _number(value: object, field: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _unreadable(f"{field} is not a number")
    if not abs(value) <= MAX_ALPHA:
        raise _unreadable(f"{field} is out of range")
    return value


def _pattern(config: Mapping[str, Any], field: str) -> Pattern:
    pattern = config.get(field) or {}
    if not isinstance(pattern, dict):
        raise _unreadable(f"{field} is not a table")
    for key in pattern:
        # peft takes these as regular expressions; one from a stranger's file is never run.
        if not re.fullmatch(r"\^?[\w.]+", key):
            raise _unreadable(f"{field} holds the expression {shown(key)!r} instead of a module")
    return Pattern(
        {key: _number(value, f"{field} of {shown(key)}") for key, value in pattern.items()}
    )
