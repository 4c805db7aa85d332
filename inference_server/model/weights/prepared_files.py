"""The files of a prepared folder: their names, their metadata, and how they are written.

One flat tensor per block and per text layer, exactly as it lies in memory; the tables of the
timestep; the VAE's decoder in two dimensions; configs and tokenizer; and a manifest, written last,
without which the folder is not a prepared one.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import torch

from inference_server.model.weights.checkpoint import SMALL_FILES, SmallFiles
from inference_server.model.weights.model_files import exists
from inference_server.model.weights.packing import Field, Fields

MANIFEST: Final = "prepared.json"
UNFINISHED: Final = "prepare.json"
"""Exists while a folder is being prepared; holds what the manifest's `about` will hold."""

STAMP: Final = "wuliart.prepared"
"""Metadata of every weight file: SHA-256 of the manifest's `about`, common to the folder."""
PART: Final = "wuliart.part"
"""Metadata of every weight file: its own path in the folder."""
LEVELS: Final = "wuliart.levels"
"""Metadata of the tables: the noise levels they were evaluated at, as JSON."""

EDGES: Final = "transformer/edges.safetensors"
TABLES: Final = "transformer/tables.safetensors"
TEXT_EDGES: Final = "text_encoder/edges.safetensors"
VAE: Final = "vae/diffusion_pytorch_model.safetensors"
DTYPE: Final = torch.bfloat16
"""Data type of all tensors except the tables and quantized matrices."""
FLAT: Final = "flat"
"""Name of the one tensor of a block or text layer."""


def block_file(index: int) -> str:
    """Returns the name of a transformer block's file."""
    return f"transformer/block-{index:02}.safetensors"


def text_layer_file(index: int) -> str:
    """Returns the name of a text encoder layer's file."""
    return f"text_encoder/layer-{index:02}.safetensors"


def is_prepared(folder: Path) -> bool:
    """Returns True if preparing the folder was finished."""
    return exists(folder / MANIFEST)


def small_file_hashes(model: SmallFiles) -> dict[str, str]:
    """Returns the SHA-256 of every file that is read besides weights, by path in the folder.

    Raises:
        ModelError: a file cannot be read, or is larger than such a file is.
    """
    return {
        path: hashlib.sha256(content).hexdigest()
        for component, names in SMALL_FILES.items()
        for path in (f"{component}/{name}" for name in names)
        if (content := model.small_file(path)) is not None
    }


def stored_fields(fields: Fields) -> Fields:
    """Returns a layer's fields as they are stored: without spare columns, float32 as bfloat16."""

    def stored(name: str, field: Field) -> Field:
        rounded = field.dtype == torch.float32 and "scale" not in name
        return Field(field.shape, DTYPE if rounded else field.dtype)

    return {name: stored(name, field) for name, field in fields.items()}


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yields a temporary name; what is written there appears at `path` complete, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch()
    mode = part.stat().st_mode  # as the umask has it; safetensors sets its own
    yield part
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # a rename outlives a power cut, unsynced content might not
    part.chmod(stat.S_IMODE(mode))
    part.rename(path)
