"""adapter_config.json beside a LoRA file: which file it belongs to, and what is in it.

peft's `save_pretrained` writes both into a folder of their own, always as adapter_model.safetensors
and adapter_config.json, and alpha only into the second. The folder is the adapter, so the
configuration belongs to the .safetensors file of that name; if there is none, to the only
.safetensors file of the folder, which was renamed; and to no file of a folder that has several.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from wuliart_lora.errors import LoraError
from wuliart_lora.peft_config import PeftConfig, read_peft_config

SIDECAR_NAME: Final = "adapter_config.json"
_MODEL_NAME: Final = "adapter_model.safetensors"
_SUFFIX: Final = ".safetensors"

MAX_SIDECAR_BYTES: Final = 1 << 20
"""peft's own has 1 to 2 KB, with rank_pattern of every module 100."""


def sidecar_owner(names: Iterable[str]) -> str | None:
    """Of the files' names in a folder, the one that its adapter_config.json belongs to, if any."""
    files = [name for name in names if name.lower().endswith(_SUFFIX)]
    if _MODEL_NAME in files:
        return _MODEL_NAME
    return files[0] if len(files) == 1 else None


def check_sidecar_size(size: int) -> None:
    """Raises `LoraError` for a size in bytes above the limit."""
    if size > MAX_SIDECAR_BYTES:
        raise LoraError(
            f"{SIDECAR_NAME} beside it has {size:,} bytes and {MAX_SIDECAR_BYTES:,} is the limit; "
            "save the adapter again with peft"
        )


def parse_sidecar(data: bytes) -> dict[str, Any]:
    """The fields in the file's bytes; `LoraError` if it is no JSON object."""
    try:
        config = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise LoraError(
            f"{SIDECAR_NAME} beside it is not a JSON object; save the adapter again with peft"
        )
    return config


def read_sidecar(config: Mapping[str, Any]) -> PeftConfig:
    """The scale that its fields give; `LoraError` if they are not understood."""
    if not config.keys() & {"peft_type", "r", "lora_alpha"}:
        raise LoraError(
            f"{SIDECAR_NAME} beside it gives none of peft_type, r and lora_alpha; move it away if "
            "it belongs to something else"
        )
    return read_peft_config(config, SIDECAR_NAME)
