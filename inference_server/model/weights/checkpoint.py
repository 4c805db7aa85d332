"""The interface of a checkpoint, and the one in the standard diffusers layout of Qwen-Image.

A folder in that layout is one that `diffusers.QwenImagePipeline.from_pretrained` reads: a folder
per component, each with a config and, for most, weights in one or several safetensors files.
`split_checkpoint` has the other kind, whose weights are single files.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from inference_server.errors import ModelError
from inference_server.model.config_values import shown
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.model_files import exists, inside, read_inside, read_json
from inference_server.model.weights.scale_marks import is_auxiliary, scalings
from inference_server.model.weights.scaling import Scaling
from inference_server.model.weights.tensor_file import TensorFile
from inference_server.model.weights.tensor_reader import TensorReader

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
"""Component folder -> file name of its weights without suffix."""


TOKENIZER_CONFIG = "tokenizer_config.json"

SMALL_FILES = {
    "scheduler": ("scheduler_config.json",),
    "text_encoder": ("config.json",),
    "tokenizer": (
        TOKENIZER_CONFIG,
        "tokenizer.json",
        "vocab.json",
        "merges.txt",
        "added_tokens.json",
        "special_tokens_map.json",
    ),
    "transformer": ("config.json",),
    "vae": ("config.json", "preview.json"),
}
"""Component folder -> files that are read besides weights; only the configs are required."""

MAX_SMALL_FILE_BYTES = 64 << 20
"""Largest of these files; Qwen2.5's tokenizer.json has 11 MB."""

MAX_INDEX_BYTES = 16 << 20
"""Largest index of shards; Qwen-Image's largest has 0.2 MB."""

SHARD_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.safetensors")


def open_shards(folder: Path, stem: str, model: Path | None = None) -> ComponentWeights:
    """Opens the safetensors files of one component, one or many shards.

    Args:
        folder: the component's.
        stem: file name of the weights without suffix.
        model: the model's folder, which links must not leave; None: `folder` itself.

    Raises:
        ModelError: a file is missing or damaged, or the index does not fit the shards.
    """
    model = model or folder
    single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
    listed: dict[str, str] = {}
    if exists(single):
        shards = [single]
    elif exists(index):
        listed = _read_index(model, index)
        shards = [folder / name for name in sorted(set(listed.values()))]
    else:
        raise ModelError(
            f"{folder} has no weights: expected {single.name} or {index.name}. "
            "Download the checkpoint again, with safetensors weights."
        )
    places: dict[str, tuple[TensorReader, str]] = {}
    files = []
    scaled: dict[str, Scaling] = {}
    for shard in shards:
        if not exists(shard):
            raise ModelError(f"{shard} is missing. Download the checkpoint again.")
        files.append(file := TensorFile(model, shard))
        for name in file.names:
            if name in places:
                raise ModelError(
                    f"{shard} and {places[name][0].path.name} both hold {name!r}. "
                    "Download the checkpoint again."
                )
            places[name] = file, name
        if any(map(is_auxiliary, file.names)):
            scaled |= scalings(file, "")
    for name, in_shard in listed.items():
        if name not in places or places[name][0].path.name != in_shard:
            raise ModelError(
                f"{index} places {shown(name)} in {in_shard}, which does not hold it. "
                "Download the checkpoint again."
            )
    return ComponentWeights(
        folder, files, {n: place for n, place in places.items() if not is_auxiliary(n)}, scaled
    )


def _read_index(model: Path, index: Path) -> dict[str, str]:
    """Reads an index file, tensor -> shard; every shard is a plain file name."""
    listed = read_json(model, index, MAX_INDEX_BYTES).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise ModelError(f"{index}: weight_map is {shown(listed)}, not a table of tensors")
    for name, shard in listed.items():
        if not isinstance(shard, str) or not SHARD_NAME.fullmatch(shard):
            raise ModelError(
                f"{index}: weight_map places {shown(name)} in {shown(shard)}, which is not the "
                "name of a .safetensors file beside it"
            )
    return listed


class SmallFiles(Protocol):
    """The files of a model that are read besides weights: configs and the tokenizer."""

    where: Path
    """The model's folder or file, for messages."""

    def small_file(self, path: str) -> bytes | None:
        """Returns the content of a file by its path in the diffusers layout; None if it lacks it.

        Raises:
            ModelError: it cannot be read or is too large.
        """


class Checkpoint(SmallFiles, Protocol):
    """A published model.

    Every method raises ModelError if a part is missing, damaged, or of another model.
    """

    name: str
    """Name of its folder or file, without suffix."""
    files: Mapping[str, Path]
    """Component -> its file, for those that lie in a single one."""

    def config(self, component: str) -> dict[str, Any]:
        """Returns the component's parsed config."""

    def weights(self, component: str) -> ComponentWeights:
        """Opens the component's weight files."""


def write_small_files(model: SmallFiles, component: str, out: Path) -> None:
    """Writes the files of a component that are read besides weights to an existing folder.

    Raises:
        ModelError: a file cannot be read or is too large.
        OSError: a copy cannot be written.
    """
    for name in SMALL_FILES[component]:
        if (content := model.small_file(f"{component}/{name}")) is not None:
            (out / name).write_bytes(content)


class FolderCheckpoint:
    """A `Checkpoint` in diffusers layout.

    Args:
        folder: the model's folder.
        components: those that must exist in it.
        name: see `Checkpoint`; None: the folder's.

    Raises:
        ModelError: the folder or one of these components is missing or unreadable.
    """

    def __init__(
        self, folder: Path, components: Iterable[str] = COMPONENTS, *, name: str | None = None
    ) -> None:
        if not folder.is_dir():
            raise ModelError(
                f"there is no model at {folder}. Give a folder, or a .safetensors or .gguf file."
            )
        for component in COMPONENTS:
            if exists(folder / component):
                inside(folder, folder / component)
        missing = [
            f"{component}/{COMPONENTS[component]}"
            for component in components
            if not exists(folder / component / COMPONENTS[component])
        ]
        if missing:
            raise ModelError(
                f"model folder {folder} is incomplete: it lacks {', '.join(missing)}. "
                "Download the whole Qwen-Image checkpoint in diffusers layout, or give single "
                "files with --model FILE, --text-encoder FILE and --vae FILE."
            )
        self.where = folder
        self.name = name or folder.name
        self.files: Mapping[str, Path] = {}

    def small_file(self, path: str) -> bytes | None:
        """See `SmallFiles`."""
        if not exists(self.where / path):
            return None
        return read_inside(self.where, self.where / path, MAX_SMALL_FILE_BYTES)

    def config(self, component: str) -> dict[str, Any]:
        """See `Checkpoint`."""
        return read_json(self.where, self.where / component / COMPONENTS[component])

    def weights(self, component: str) -> ComponentWeights:
        """See `Checkpoint`."""
        return open_shards(self.where / component, WEIGHT_STEMS[component], self.where)
