"""Reads the parts of a prepared folder, each proven to belong to it and to stand in its place."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.config_values import shown
from inference_server.model.modulation import ModulationTable
from inference_server.model.schedule_choice import choose
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.weights import packing
from inference_server.model.weights.checkpoint import FolderCheckpoint
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.manifest import read_manifest
from inference_server.model.weights.model_files import exists
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.prepared_files import (
    DTYPE,
    EDGES,
    FLAT,
    LEVELS,
    MANIFEST,
    PART,
    STAMP,
    TABLES,
    TEXT_EDGES,
    VAE,
    block_file,
    small_file_hashes,
    stored_fields,
    text_layer_file,
)
from inference_server.model.weights.source import Tables, TextEdges, image_tokens
from inference_server.model.weights.stored_form import Remark
from inference_server.model.weights.tensor_file import TensorFile
from inference_server.model.weights.text_encoder import layer_fields
from inference_server.model.weights.transformer import block_fields
from inference_server.weight_kind import WeightKind


class PreparedSource:
    """A `source.Source` that reads a prepared folder.

    Raises:
        ModelError: the folder was not finished, is of another format, or its parts do not belong
            together.
    """

    def __init__(self, folder: Path) -> None:
        self.where, self.name = folder, folder.name
        self._manifest = manifest = read_manifest(folder)
        self._checkpoint = FolderCheckpoint(folder)
        if manifest.small_files != small_file_hashes(self._checkpoint):
            raise ModelError(
                f"a config or the tokenizer of {folder} has changed since it was prepared: prepare "
                "it again"
            )
        self.turbo_lora = manifest.turbo_lora
        self.kind: WeightKind | None = manifest.kind
        self.stored_kind = manifest.kind
        self.parameters = manifest.parameters
        self.schedule = manifest.schedule
        self._config = TransformerConfig.from_json(self.config("transformer"))
        self._text_config = TextConfig.from_json(self.config("text_encoder"))
        blocks = block_fields(self._config, DTYPE, manifest.kind)
        self._check_layers(block_file, self._config.blocks, blocks)
        layers = layer_fields(self._text_config, DTYPE)
        self._check_layers(text_layer_file, self._text_config.layers, layers)

    def small_file(self, path: str) -> bytes | None:
        """See `SmallFiles`."""
        return self._checkpoint.small_file(path)

    def config(self, component: str) -> dict[str, Any]:
        """See `Source`."""
        return self._checkpoint.config(component)

    def tables(self, config: TransformerConfig, levels: Sequence[float]) -> Tables:
        """See `Source`."""
        if tuple(levels) != (held := self._manifest.levels):
            raise ModelError(
                f"{self.where} was prepared for the noise levels {list(held)}, and this version "
                f"of its schedule has {list(levels)}: prepare it again"
            )
        rows, width = len(levels), config.width
        shapes = {
            "blocks": (rows, config.blocks, 2, 6, width),
            "final": (rows, 2, width),
            "conditioning": (rows, width),
        }
        with self._open(TABLES) as file:
            if file.metadata.get(LEVELS) != json.dumps(list(levels)):
                raise ModelError(
                    f"{file.path} is of other noise levels than {MANIFEST} says: prepare it again"
                )
        read = self._load(TABLES, shapes)
        return Tables(ModulationTable(read["blocks"], read["final"]), read["conditioning"])

    def has_schedule(self, text: str) -> bool:
        """Returns True if `text`, a value of `--schedule`, means the schedule of this folder."""
        chosen = choose(text, None, image_tokens(self), self.config("scheduler"))
        return chosen.schedule.is_same(self.schedule.schedule)

    def remarks(self, kind: WeightKind) -> Sequence[Remark]:
        """See `Source`; those of the checkpoint, as the folder was prepared from it."""
        return self._manifest.remarks

    def edges(self) -> EdgeWeights:
        """See `Source`."""
        return EdgeWeights(**self._load(EDGES, EdgeWeights.shapes(self._config)))

    def fill_block(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        self._fill(block_file(index), fields, buffer)

    def text_edges(self) -> TextEdges:
        """See `Source`."""
        width = self._text_config.width
        shapes = {"embedding": (None, width), "final_norm": (width,)}
        return TextEdges(**self._load(TEXT_EDGES, shapes))

    def fill_text_layer(self, fields: Fields, index: int, buffer: Tensor) -> None:
        """See `Source`."""
        self._fill(text_layer_file(index), fields, buffer)

    def vae(self) -> ComponentWeights:
        """See `Source`."""
        self._open(VAE).close()
        return self._checkpoint.weights("vae")

    def _open(self, name: str) -> TensorFile:
        """Opens a part and compares its metadata with the manifest and with its own name."""
        file = TensorFile(self.where, self.where / name)
        problem = ""
        if file.metadata.get(STAMP) != self._manifest.stamp:
            problem = "was not made together with the rest of the folder"
        elif (part := file.metadata.get(PART)) != name:
            problem = f"holds {shown(part)}, another part of the folder"
        if problem:
            file.close()
            raise ModelError(f"{file.path} {problem}: prepare it again")
        return file

    def _load(self, name: str, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, Tensor]:
        """Reads a part's tensors, which must have these shapes; None stands for any size."""
        with self._open(name) as file:
            for tensor, shape in shapes.items():
                found = file.shape(tensor)
                if len(found) != len(shape) or any(
                    size not in (None, held) for size, held in zip(shape, found, strict=True)
                ):
                    raise ModelError(
                        f"{file.path}: {tensor} is {list(found)}, which its configs contradict: "
                        "prepare it again"
                    )
            return {tensor: file.read(tensor) for tensor in shapes}

    def _check_layers(self, file_name: Callable[[int], str], layers: int, fields: Fields) -> None:
        """Compares the number of layers, and the size of each, with the files."""
        for index in range(layers):
            with self._open(file_name(index)) as file:
                if (held := file.shape(FLAT)) != (packing.nbytes(fields),):
                    raise ModelError(
                        f"{file.path} holds {list(held)} bytes, {packing.nbytes(fields)} by its "
                        "config: prepare it again"
                    )
        if exists(further := self.where / file_name(layers)):
            raise ModelError(f"{further} is one layer more than its config says: prepare it again")

    def _fill(self, name: str, fields: Fields, buffer: Tensor) -> None:
        with self._open(name) as file:
            flat = file.read(FLAT)
        stored = stored_fields(fields)
        if flat.dtype != torch.uint8 or flat.shape != (packing.nbytes(stored),):
            raise ModelError(
                f"{file.path} has changed: it holds {list(flat.shape)} of {flat.dtype}. Prepare it "
                "again"
            )
        if stored == fields:
            buffer.copy_(flat)
            return
        views = packing.views(fields, buffer)
        for field, value in packing.views(stored, flat).items():
            views[field].copy_(value)
