"""A prepared folder: the same model with everything done that need be done only once.

Owns its files: one flat tensor per block and per text layer, exactly as it will lie in memory; the
tables of the timestep; the VAE's decoder in two dimensions; and a manifest, written last, without
which the folder is not one. Knows nothing of how the parts were made.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model import packing
from inference_server.model.checkpoint import Checkpoint, WeightFiles, read_json
from inference_server.model.modulation import ModulationTable
from inference_server.model.packing import Field, Fields
from inference_server.model.source import Tables, TextEdges
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.weight_kind import WeightKind

MANIFEST = "prepared.json"
UNFINISHED = "prepare.json"
"""There while a folder is being prepared: what it is made from."""
FORMAT = 1
"""Rises when a folder made before can no longer be read."""

EDGES = "transformer/edges.safetensors"
TABLES = "transformer/tables.safetensors"
TEXT_EDGES = "text_encoder/edges.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
DTYPE = torch.bfloat16
"""Of everything but tables and eight-bit matrices."""
FLAT = "flat"
"""Name of a block's or layer's one tensor."""


def block_file(index: int) -> str:
    """Of a transformer block."""
    return f"transformer/block-{index:02}.safetensors"


def text_layer_file(index: int) -> str:
    """Of a text encoder's layer."""
    return f"text_encoder/layer-{index:02}.safetensors"


class PreparedSource:
    """Answers `source.Source` from a prepared folder.

    Raises:
        ModelError: it was not finished, or is of another format.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_json(folder / MANIFEST)
        if manifest.get("format") != FORMAT:
            raise ModelError(
                f"{folder} was prepared in format {manifest.get('format')}, this server reads "
                f"{FORMAT}: prepare it again"
            )
        self._checkpoint = Checkpoint(folder)
        self.turbo_lora: str = manifest["turbo_lora"]
        self.kind: WeightKind | None = WeightKind(manifest["weights"])
        self.parameters: int = manifest["parameters"]
        self._levels: list[float] = manifest["levels"]

    def config(self, component: str) -> dict[str, Any]:
        """See `Source`."""
        return self._checkpoint.config(component)

    def tables(self, config: TransformerConfig, levels: Sequence[float]) -> Tables:
        """See `Source`."""
        if list(levels) != self._levels:
            raise ModelError(
                f"{self.folder} was prepared for the noise levels {self._levels}, its scheduler "
                f"config now gives {list(levels)}: prepare it again"
            )
        read = self._load(TABLES)
        return Tables(ModulationTable(read["blocks"], read["final"]), read["conditioning"])

    def edges(self) -> EdgeWeights:
        """See `Source`."""
        return EdgeWeights(**self._load(EDGES))

    def fill_block(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        self._fill(block_file(index), fields, buffer)

    def text_edges(self) -> TextEdges:
        """See `Source`."""
        return TextEdges(**self._load(TEXT_EDGES))

    def fill_text_layer(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        self._fill(text_layer_file(index), fields, buffer)

    def vae(self) -> WeightFiles:
        """See `Source`."""
        return self._checkpoint.weights("vae")

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / name)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {self.folder / name}: {error}") from None

    def _fill(self, name: str, fields: Fields, buffer: Tensor) -> None:
        try:
            with safe_open(self.folder / name, framework="pt") as file:
                flat: Tensor = file.get_tensor(FLAT)
        except (OSError, SafetensorError) as error:
            raise ModelError(f"cannot read {self.folder / name}: {error}") from None
        stored = stored_fields(fields)
        if len(flat) != packing.nbytes(stored):
            raise ModelError(
                f"{self.folder / name} holds {len(flat)} bytes, expected {packing.nbytes(stored)}: "
                "prepare it again"
            )
        if stored == fields:
            buffer.copy_(flat)
            return
        wanted = packing.views(fields, buffer)
        for field, value in packing.views(stored, flat).items():
            wanted[field].copy_(value)


def stored_fields(fields: Fields) -> Fields:
    """What a layer's fields are in a prepared folder: dense, those of a float32 model in bf16."""

    def stored(name: str, field: Field) -> Field:
        rounded = field.dtype == torch.float32 and "scale" not in name
        return Field(field.shape, DTYPE if rounded else field.dtype)

    return {name: stored(name, field) for name, field in fields.items()}


def is_prepared(folder: Path) -> bool:
    """Whether a folder is one, finished."""
    return (folder / MANIFEST).is_file()


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to; what was written gets its own name when it is on the disk, or never."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    yield part
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # a rename outlives a power cut, what it names might not
    part.chmod(0o644)
    part.rename(path)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Makes the folder a prepared one; the last thing done."""
    text = json.dumps({"format": FORMAT, "torch": torch.__version__} | content, indent=2)
    with whole(folder / MANIFEST) as part:
        part.write_text(text + "\n", encoding="utf-8")
