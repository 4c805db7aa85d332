"""The LoRA configuration in a file's header: statements about the scale beside the tensors.

Writers that leave alpha out of the tensors put it into plain fields (`lora_alpha`,
`network_alpha`, `alpha`, also behind `transformer.` or `diffusion_model.`), or write a whole
LoraConfig as JSON. Fields that name the method are checked with and without an alpha: no scale
makes a file of another method a LoRA. The complete settings of a training program (OneTrainer's
`ot_config`) are not read: they say nothing about the file, whose factors may have alpha folded in.
"""

from __future__ import annotations

import json
from typing import Any, Final

from wuliart_lora.alpha import content
from wuliart_lora.errors import LoraError, shown
from wuliart_lora.header_fields import HeaderField, HeaderFields, plain_name, same_value
from wuliart_lora.keys import is_text_encoder
from wuliart_lora.peft_config import (
    METHOD_FIELDS,
    PeftConfig,
    check_method,
    is_set,
    read_peft_config,
)
from wuliart_lora.strict_json import RepeatedKeyError, parse_json

KOHYA_ALPHA: Final = "ss_network_alpha"
"""kohya's note about the training; `wuliart_lora.scale` decides if it counts."""

_CONFIGS: Final = (
    "lora_adapter_metadata", "adapter_config", "adapter_config.json", "peft_config", "lora_config",
)  # fmt: skip
"""Fields that hold a LoraConfig as JSON. diffusers' save_lora_weights writes the first, and puts
`transformer.` before each of its keys."""

_MAX_CONFIG_CHARACTERS: Final = 1 << 20
"""As much as an adapter_config.json beside the file may have: parsed, short values take a hundred
times their length."""

_ALPHAS: Final = ("lora_alpha", "network_alpha", "alpha")
_RANKS: Final = (
    "r", "rank", "dim", "lora_r", "lora_rank", "lora_dim", "network_dim", "network_rank",
)  # fmt: skip
_NEED_ALPHA: Final = ("use_rslora", "rank_pattern", "alpha_pattern")
"""Fields of LoraConfig that are also written one by one, and whose scale depends on an alpha."""

_UNMISTAKABLE: Final = ("lora_alpha", "network_alpha", KOHYA_ALPHA)
"""Names that mean a LoRA's alpha whatever stands before them."""


def read_header_config(fields: HeaderFields) -> list[PeftConfig]:
    """Reads every statement of the header about the scale.

    Args:
        fields: the header's metadata.

    Returns:
        One configuration for each field that gives an alpha. They may disagree.

    Raises:
        LoraError: a statement is not understood, or two fields of one meaning differ.
    """
    _check_components(fields)
    found = [_config(field) for name in _CONFIGS for field in fields.every(name)]
    return found + _separate(fields)


def _check_components(fields: HeaderFields) -> None:
    """Raises `LoraError` for an alpha of a component that is not understood."""
    for name in fields:
        component, _, leaf = name.rpartition(".")
        if not component or leaf not in _UNMISTAKABLE or is_text_encoder(name):
            continue
        for field in fields.every(name):
            raise LoraError(
                f"{field.source} gives an alpha for {shown(component)!r}, which is not understood; "
                f"rename it to {leaf} if it belongs to the transformer, else remove it"
            )


def _separate(fields: HeaderFields) -> list[PeftConfig]:
    """Reads the fields that LoraConfig's own are written to one by one."""
    check_method(_values(fields, METHOD_FIELDS), "the header")
    others = _values(fields, _NEED_ALPHA)
    ranks = [field for name in _RANKS if (field := fields.one(name))]
    alphas = [
        (field, alpha)
        for name in _ALPHAS
        for field in fields.every(name)
        if (alpha := field.number()) is not None
    ]
    if not alphas:
        for name, value in others.items():
            if is_set(value):
                raise LoraError(
                    f"the header gives {name} and no alpha beside it; export the LoRA again"
                )
        return []
    numbers = [(field, rank) for field in ranks if (rank := field.number()) is not None]
    if len({rank for _, rank in numbers}) > 1:
        given = " and ".join(f"{shown(field.name)} {rank:g}" for field, rank in numbers[:2])
        raise LoraError(f"the header gives two ranks, {given}; export the LoRA again")
    if numbers:
        others["r"] = numbers[0][1]
    return [
        read_peft_config({**others, "lora_alpha": alpha}, field.source) for field, alpha in alphas
    ]


def _values(fields: HeaderFields, names: tuple[str, ...]) -> dict[str, Any]:
    """Returns the values of those fields that are there: a table if it looks like one, or text."""
    values: dict[str, Any] = {}
    for name in names:
        if field := fields.one(name):
            text = content(field.value)
            values[name] = _table(field) if text.startswith("{") else text
    return values


def _config(field: HeaderField) -> PeftConfig:
    """Reads the LoraConfig in a field."""
    config: dict[str, Any] = {}
    written: dict[str, str] = {}
    # transformer.save_lora_adapter writes the keys bare, the pipeline with the component's name.
    for key, value in _table(field).items():
        plain = plain_name(key)
        if plain in config and not same_value(_text(field, config[plain]), _text(field, value)):
            raise LoraError(
                f"{field.source} gives {shown(written[plain])!r} and {shown(key)!r} with different "
                "values; remove the one that is wrong"
            )
        config[plain], written[plain] = value, key
    if "r" not in config and "lora_alpha" not in config:
        raise LoraError(
            f"{field.source} gives neither r nor lora_alpha of the transformer; export the LoRA "
            "again"
        )
    return read_peft_config(config, field.source)


def _text(field: HeaderField, value: object) -> str:
    try:
        return value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    except RecursionError:
        raise _unreadable(field, "it is nested too deeply") from None


def _table(field: HeaderField) -> dict[str, Any]:
    if len(field.value) > _MAX_CONFIG_CHARACTERS:
        raise _unreadable(
            field,
            f"it has {len(field.value):,} characters and {_MAX_CONFIG_CHARACTERS:,} is the limit",
        )
    try:
        written = parse_json(field.value)
        if isinstance(written, str):  # encoded twice
            written = parse_json(written)
    except RepeatedKeyError as error:
        raise _unreadable(field, f"it gives {shown(error.key)!r} twice") from None
    except (ValueError, RecursionError):
        raise _unreadable(field, "it is not JSON") from None
    if not isinstance(written, dict):
        raise _unreadable(field, "it is not a JSON object")
    return written


def _unreadable(field: HeaderField, why: str) -> LoraError:
    return LoraError(f"{field.source} is unreadable: {why}; export the LoRA again")
