"""What a file's header says of its strength, beside the tensors.

Owns which fields of the metadata count. Writers that leave alpha out of the tensors put it here as
plain fields (`lora_alpha`, `network_alpha`, `alpha`, also behind `transformer.`), or as a whole
LoraConfig in JSON. A training program's complete settings (OneTrainer's `ot_config`) are no
statement about the file, whose factors may have alpha folded in: they are not looked into.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final

from wuliart_lora.alpha import read_number
from wuliart_lora.errors import LoraError, shown
from wuliart_lora.peft_config import PeftConfig, is_set, read_peft_config

_COMPONENT: Final = "transformer."

_CONFIGS: Final = (
    "lora_adapter_metadata", "adapter_config", "adapter_config.json", "peft_config", "lora_config",
)  # fmt: skip
"""Fields that hold a LoraConfig as JSON; the first is diffusers' save_lora_weights, which puts
`transformer.` before each of its fields."""

_ALPHAS: Final = ("lora_alpha", "network_alpha", "alpha")
_RANKS: Final = (
    "r", "rank", "dim", "lora_r", "lora_rank", "lora_dim", "network_dim", "network_rank",
)  # fmt: skip
_BESIDE_ALPHA: Final = (
    "use_rslora", "use_dora", "rank_pattern", "alpha_pattern", "init_lora_weights",
)  # fmt: skip
"""LoraConfig's fields that are also written one by one."""


def read_notes(metadata: Mapping[str, str]) -> list[PeftConfig]:
    """Every statement of the header about the strength; `LoraError` for one not understood."""
    fields = {_plain(name): (name, value) for name, value in metadata.items()}
    found = [_config(*fields[field]) for field in _CONFIGS if fields.get(field, ("", ""))[1]]
    return found + _separate(fields)


def _plain(name: str) -> str:
    """A field's name without the component's, in one spelling."""
    return name.strip().lower().replace("-", "_").replace(" ", "_").removeprefix(_COMPONENT)


def _separate(fields: Mapping[str, tuple[str, str]]) -> list[PeftConfig]:
    """The statements of fields that stand for themselves: one for each that gives an alpha."""
    alphas = {name: _number(fields[name]) for name in _ALPHAS if name in fields}
    alphas = {name: alpha for name, alpha in alphas.items() if alpha is not None}
    others: dict[str, Any] = {f: _value(*fields[f]) for f in _BESIDE_ALPHA if f in fields}
    if not alphas:
        if is_set(others.get("use_rslora")) or is_set(others.get("alpha_pattern")):
            raise LoraError(
                "the header gives use_rslora or alpha_pattern and no alpha beside it; export the "
                "LoRA again"
            )
        return []
    ranks = {fields[name][0]: _number(fields[name]) for name in _RANKS if name in fields}
    ranks = {name: rank for name, rank in ranks.items() if rank is not None}
    if len(set(ranks.values())) > 1:
        said = " and ".join(f"{shown(name)} {rank:g}" for name, rank in list(ranks.items())[:2])
        raise LoraError(f"the header gives two ranks, {said}; export the LoRA again")
    if ranks:
        others["r"] = next(iter(ranks.values()))
    return [
        read_peft_config(
            {**others, "lora_alpha": alpha}, f"the header's {shown(fields[name][0])!r}"
        )
        for name, alpha in alphas.items()
    ]


def _number(field: tuple[str, str]) -> float | None:
    name, value = field
    return read_number(value, f"the header's {shown(name)!r}")


def _value(name: str, text: str) -> object:
    """A field's value: a table if it looks like one, else its text."""
    return _table(name, text) if text.lstrip().startswith("{") else text


def _config(name: str, text: str) -> PeftConfig:
    """The LoraConfig in a field."""
    source = f"the header's {shown(name)!r}"
    written = _table(name, text)
    # transformer.save_lora_adapter writes the fields bare, the pipeline with the component's name.
    config = {
        key.removeprefix(_COMPONENT): value
        for key, value in written.items()
        if key.startswith(_COMPONENT)
    } or written
    if "r" not in config and "lora_alpha" not in config:
        raise LoraError(
            f"{source} gives neither r nor lora_alpha of the transformer; export the LoRA again"
        )
    return read_peft_config(config, source)


def _table(name: str, text: str) -> dict[str, Any]:
    try:
        written = json.loads(text)
        if isinstance(written, str):  # encoded twice
            written = json.loads(written)
    except (ValueError, RecursionError):
        raise LoraError(
            f"the header's {shown(name)!r} is unreadable: it is not JSON; export the LoRA again"
        ) from None
    if not isinstance(written, dict):
        raise LoraError(
            f"the header's {shown(name)!r} is unreadable: it is not a JSON object; export the LoRA "
            "again"
        )
    return written
