"""adapter_config.json beside a LoRA file: which file it belongs to, and what it contains.

peft's `save_pretrained` writes `adapter_model.safetensors` and `adapter_config.json` into a folder
of their own, and alpha only into the latter. `SidecarOwners` finds the file that the configuration
belongs to when other files lie in the same folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.peft_config import PeftConfig, read_peft_config
from wuliart_lora.strict_json import RepeatedKeyError, parse_json

SIDECAR_NAME: Final = "adapter_config.json"
_MODEL_NAME: Final = "adapter_model.safetensors"
_SUFFIX: Final = ".safetensors"

MAX_SIDECAR_BYTES: Final = 1 << 20
"""peft's own has 1 to 2 KB, with rank_pattern of every module 100."""


class SidecarOwners:
    """The files of one folder that its adapter_config.json may belong to.

    It belongs to `adapter_model.safetensors`, the name that peft gives. Without a file of that
    name it belongs to the only .safetensors file. Beside several, it may belong to each of them:
    `plan_lora` then refuses those that state no alpha of their own.

    Args:
        names: the names of all files in the folder. Hidden files do not count.
    """

    def __init__(self, names: Iterable[str]) -> None:
        files = [n for n in names if n.lower().endswith(_SUFFIX) and not n.startswith(".")]
        self._saved_by_peft = _MODEL_NAME in files
        self._first_two = sorted(files)[:2]

    def owns(self, name: str) -> bool:
        """Returns True if the configuration belongs to the file of this name."""
        if self._saved_by_peft:
            return name == _MODEL_NAME
        return self.rival(name) is None

    def rival(self, name: str) -> str | None:
        """Returns another file that it may belong to, if it may belong to the one named, too."""
        if self._saved_by_peft:
            return None
        return next((other for other in self._first_two if other != name), None)


def rival_error(rival: str) -> LoraError:
    """The error of a file without an alpha that shares the sidecar's folder with `rival`."""
    return LoraError(
        f"{SIDECAR_NAME} beside it may belong to it or to {shown(rival)!r}, and the file itself "
        f"states no alpha; move {SIDECAR_NAME} into a folder of its own with the LoRA that it "
        "belongs to"
    )


def check_sidecar_size(size: int) -> None:
    """Raises `LoraError` for a size above the limit, in bytes."""
    if size > MAX_SIDECAR_BYTES:
        raise LoraError(
            f"{SIDECAR_NAME} beside it has {size:,} bytes and {MAX_SIDECAR_BYTES:,} is the limit; "
            "save the adapter again with peft"
        )


def parse_sidecar(data: bytes) -> dict[str, Any]:
    """Returns the fields in the file's bytes; raises `LoraError` if it is no JSON object."""
    try:
        config = parse_json(data.decode("utf-8"))
    except RepeatedKeyError as error:
        raise LoraError(
            f"{SIDECAR_NAME} beside it gives {shown(error.key)!r} twice; save the adapter again "
            "with peft"
        ) from None
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise LoraError(
            f"{SIDECAR_NAME} beside it is not a JSON object; save the adapter again with peft"
        )
    return config


def read_sidecar(config: Mapping[str, Any]) -> PeftConfig:
    """Reads the scale from its fields; raises `LoraError` if they are not understood."""
    if not config.keys() & {"peft_type", "r", "lora_alpha"}:
        raise LoraError(
            f"{SIDECAR_NAME} beside it gives none of peft_type, r and lora_alpha; move it away if "
            "it belongs to something else"
        )
    return read_peft_config(config, SIDECAR_NAME)
