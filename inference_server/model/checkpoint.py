"""Reads a checkpoint in the standard diffusers layout of Qwen-Image.

Owns which files there are and what their configs must say; knows nothing of what the tensors
mean. The folder is one that `diffusers.QwenImagePipeline.from_pretrained` reads.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from safetensors import SafetensorError, safe_open

from inference_server.errors import ModelError

COMPONENTS = {
    "scheduler": "scheduler_config.json",
    "text_encoder": "config.json",
    "tokenizer": "tokenizer_config.json",
    "transformer": "config.json",
    "vae": "config.json",
}
"""Component folder -> the config file it must hold."""

WEIGHT_STEMS = {
    "transformer": "diffusion_pytorch_model",
    "vae": "diffusion_pytorch_model",
    "text_encoder": "model",
}
"""Component folder -> file name of its weights without ending."""


MAPPED_BYTES = 1 << 30
"""Read from mapped files before they are mapped anew: until then every page that was read counts as
this process's memory, 57 GB in the end."""


class WeightFiles:
    """The safetensors files of one component, one or many shards, read tensor by tensor."""

    def __init__(self, folder: Path, stem: str) -> None:
        single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if single.is_file():
            shards = [single]
        elif index.is_file():
            listed = sorted(set(read_json(index).get("weight_map", {}).values()))
            shards = [folder / name for name in listed]
        else:
            raise ModelError(
                f"{folder} has no weights: expected {single.name} or {index.name}. "
                "Download the checkpoint again, with safetensors weights."
            )
        self.folder = folder
        self._shard_of: dict[str, Path] = {}
        self._open: dict[Path, Any] = {}
        self._mapped = 0
        for shard in shards:
            if not shard.is_file():
                raise ModelError(f"{shard} is missing. Download the checkpoint again.")
            self._shard_of.update(dict.fromkeys(self._opened(shard).keys(), shard))

    def __contains__(self, name: str) -> bool:
        return name in self._shard_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._shard_of)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor, without reading it."""
        return tuple(self._handle(name).get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """One tensor on the CPU, in the dtype it is stored in.

        Raises:
            ModelError: there is no tensor of that name.
        """
        tensor: torch.Tensor = self._handle(name).get_tensor(name)
        self._mapped += tensor.nbytes
        if self._mapped > MAPPED_BYTES:
            self._open.clear()
            self._mapped = 0
        return tensor

    def parameter_count(self) -> int:
        """Elements over all tensors."""
        return sum(torch.Size(self.shape(name)).numel() for name in self._shard_of)

    def _handle(self, name: str) -> Any:
        shard = self._shard_of.get(name)
        if shard is None:
            raise ModelError(
                f"{self.folder} has no tensor {name!r}: this is not a Qwen-Image checkpoint, "
                "or it is incomplete."
            )
        return self._opened(shard)

    def _opened(self, shard: Path) -> Any:
        if shard not in self._open:
            try:
                self._open[shard] = safe_open(shard, framework="pt")
            except SafetensorError as error:
                raise ModelError(f"{shard} is damaged ({error}). Download it again.") from None
        return self._open[shard]


HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
HUB_FILES = ["*.json", "*.txt", "*.safetensors"]


def locate(model: Path) -> Path:
    """The folder of a model that is named by its folder or by its id on the Hugging Face hub.

    What the hub's cache lacks is downloaded, with the hub's own progress bars.

    Raises:
        ModelError: there is no such folder, and the hub gives none.
    """
    if model.exists() or not HUB_ID.fullmatch(str(model)):
        return model
    try:
        return Path(snapshot_download(str(model), allow_patterns=HUB_FILES))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ModelError(
            f"there is no folder {model}, and the Hugging Face hub does not give {model} either "
            f"({reason}): check name and network, or give a folder with --model"
        ) from None


class Checkpoint:
    """One checkpoint folder whose components have been checked to be there.

    Raises:
        ModelError: the folder or one of its components is missing or unreadable.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ModelError(f"model folder {folder} does not exist. Give one with --model DIR.")
        missing = [
            name for name, config in COMPONENTS.items() if not (folder / name / config).is_file()
        ]
        if missing:
            needs = ", ".join(f"{name}/{COMPONENTS[name]}" for name in missing)
            raise ModelError(
                f"model folder {folder} is incomplete: it lacks {needs}. "
                "Download the whole Qwen-Image checkpoint in diffusers layout."
            )
        self.folder = folder

    def config(self, component: str) -> dict[str, Any]:
        """The component's parsed config file."""
        return read_json(self.folder / component / COMPONENTS[component])

    def weights(self, component: str) -> WeightFiles:
        """The component's weight files, opened."""
        return WeightFiles(self.folder / component, WEIGHT_STEMS[component])


def read_json(path: Path) -> dict[str, Any]:
    """Parses a JSON object.

    Raises:
        ModelError: the file is unreadable or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}") from None
    if not isinstance(value, dict):
        raise ModelError(f"{path} does not hold a JSON object")
    return value
