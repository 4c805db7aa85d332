"""A prepared folder: the same model with everything done that need be done only once.

Owns its files: one flat tensor per block and per text layer, exactly as it will lie in memory; the
tables of the timestep; the VAE's decoder in two dimensions; and a manifest, written last, without
which the folder is not one. Knows nothing of how the parts were made.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from inference_server.model.modulation import ModulationTable
from inference_server.model.schedule import Schedule
from inference_server.model.schedule_choice import UNDISTILLED, ChosenSchedule, choose
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.weights import packing
from inference_server.model.weights.checkpoint import (
    MAX_SMALL_FILE_BYTES,
    SMALL_FILES,
    Checkpoint,
    WeightFiles,
)
from inference_server.model.weights.model_files import exists, read_inside, read_json
from inference_server.model.weights.packing import Field, Fields
from inference_server.model.weights.source import Tables, TextEdges, image_tokens
from inference_server.model.weights.tensor_file import TensorFile
from inference_server.model.weights.text_encoder import layer_fields
from inference_server.model.weights.transformer import block_fields
from inference_server.weight_kind import WeightKind
from wuliart_contract.limits import MAX_STEPS

MANIFEST = "prepared.json"
UNFINISHED = "prepare.json"
"""There while a folder is being prepared: what it is made from."""
FORMAT = 2
"""Rises when a folder made before can no longer be read."""
STAMP = "wuliart.prepared"
"""Metadata of every file: of what, and how, all files of the folder were made."""

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
        ModelError: it was not finished, is of another format, or does not hold together.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = ConfigValues(str(folder / MANIFEST), read_json(folder, folder / MANIFEST))
        if (found := manifest.integer("format", least=0, most=1 << 31)) != FORMAT:
            raise ModelError(
                f"{folder} was prepared in format {found}, this server reads {FORMAT}: prepare it "
                "again"
            )
        self._checkpoint = Checkpoint(folder)
        self.turbo_lora = manifest.text("turbo_lora")
        if (weights := manifest.text("weights")) not in list(WeightKind):
            raise manifest.wrong("weights", weights, " or ".join(WeightKind))
        kind = WeightKind(weights)
        self.kind: WeightKind | None = kind
        self.parameters = manifest.integer("parameters", most=1 << 50)
        levels = manifest.items("levels", most=64)
        self._levels = manifest.numbers("levels", len(levels))
        self._stamp = manifest.text("stamp")
        self._check_small_files(manifest)
        self.schedule = ChosenSchedule(
            schedule_of(manifest),
            manifest.text("schedule_why"),
            UNDISTILLED if manifest.flag("undistilled") else "",
        )
        self._config = TransformerConfig.from_json(self.config("transformer"))
        self._text_config = TextConfig.from_json(self.config("text_encoder"))
        self._check(block_file, self._config.blocks, block_fields(self._config, DTYPE, kind))
        layers = layer_fields(self._text_config, DTYPE)
        self._check(text_layer_file, self._text_config.layers, layers)

    def config(self, component: str) -> dict[str, Any]:
        """See `Source`."""
        return self._checkpoint.config(component)

    def tables(self, config: TransformerConfig, levels: Sequence[float]) -> Tables:
        """See `Source`."""
        if tuple(levels) != self._levels:
            raise ModelError(
                f"{self.folder} was prepared for the noise levels {list(self._levels)}, and this "
                f"version of its schedule has {list(levels)}: prepare it again"
            )
        rows, width = len(levels), config.width
        shapes = {
            "blocks": (rows, config.blocks, 2, 6, width),
            "final": (rows, 2, width),
            "conditioning": (rows, width),
        }
        read = self._load(TABLES, shapes)
        return Tables(ModulationTable(read["blocks"], read["final"]), read["conditioning"])

    def has_schedule(self, text: str) -> bool:
        """Returns True if `text`, as `--schedule` takes it, says the schedule of this folder."""
        chosen = choose(text, None, image_tokens(self), self.config("scheduler"))
        return chosen.schedule == self.schedule.schedule

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

    def vae(self) -> WeightFiles:
        """See `Source`."""
        self._open(VAE).close()
        return self._checkpoint.weights("vae")

    def _open(self, name: str) -> TensorFile:
        file = TensorFile(self.folder, self.folder / name)
        if file.metadata.get(STAMP) != self._stamp:
            file.close()
            raise ModelError(
                f"{file.path} was not made together with the rest of the folder: prepare it again"
            )
        return file

    def _check_small_files(self, manifest: ConfigValues) -> None:
        """Compares configs and tokenizer with those that the rest was made from."""
        if not manifest.is_equal("small_files", small_files(self.folder)):
            raise ModelError(
                f"a config or the tokenizer of {self.folder} has changed since it was prepared: "
                "prepare it again"
            )

    def _load(self, name: str, shapes: Mapping[str, tuple[int | None, ...]]) -> dict[str, Tensor]:
        """A file's tensors, of these shapes; None stands for any size."""
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

    def _check(self, file_name: Callable[[int], str], layers: int, fields: Fields) -> None:
        """Compares a number of layers, and the size of each, with the files."""
        for index in range(layers):
            with self._open(file_name(index)) as file:
                if (held := file.shape(FLAT)) != (packing.nbytes(fields),):
                    raise ModelError(
                        f"{file.path} holds {list(held)} bytes, {packing.nbytes(fields)} by its "
                        "config: prepare it again"
                    )
        if exists(further := self.folder / file_name(layers)):
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
        wanted = packing.views(fields, buffer)
        for field, value in packing.views(stored, flat).items():
            wanted[field].copy_(value)


def schedule_entry(schedule: Schedule) -> dict[str, Any]:
    """A schedule as the manifest keeps it."""
    return {"schedule": dataclasses.asdict(schedule)}


def schedule_of(manifest: ConfigValues) -> Schedule:
    """The schedule of a manifest.

    Raises:
        ModelError: it has none that makes sense.
    """
    entry = manifest.table("schedule")
    if entry is None:
        raise manifest.wrong("schedule", None, "a schedule")
    levels = entry.items("levels", most=MAX_STEPS)
    terminal = None
    if entry.has("terminal"):
        terminal = entry.number("terminal", least=0.0, most=1.0)
    try:
        return Schedule(
            entry.text("name"),
            entry.number("shift", least=0.0, most=1e9),
            terminal,
            entry.numbers("levels", len(levels)),
            entry.integer("steps", most=MAX_STEPS),
        )
    except ValueError as error:
        raise entry.wrong("schedule", str(error), "one that falls from 1 to 0") from None


def small_files(folder: Path) -> dict[str, str]:
    """SHA-256 of everything that is read of a model besides its weights, by path in the folder."""
    return {
        f"{component}/{name}": hashlib.sha256(
            read_inside(folder, path, MAX_SMALL_FILE_BYTES)
        ).hexdigest()
        for component, names in SMALL_FILES.items()
        for name in names
        if exists(path := folder / component / name)
    }


def stored_fields(fields: Fields) -> Fields:
    """What a layer's fields are in a prepared folder: dense, those of a float32 model in bf16."""

    def stored(name: str, field: Field) -> Field:
        rounded = field.dtype == torch.float32 and "scale" not in name
        return Field(field.shape, DTYPE if rounded else field.dtype)

    return {name: stored(name, field) for name, field in fields.items()}


def is_prepared(folder: Path) -> bool:
    """Returns True if preparing the folder was finished."""
    return exists(folder / MANIFEST)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to; what was written gets its own name when it is on the disk, or never."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.unlink(missing_ok=True)
    part.touch()
    mode = part.stat().st_mode  # by the umask, whatever safetensors sets
    yield part
    with part.open("rb+") as file:
        os.fsync(file.fileno())  # a rename outlives a power cut, what it names might not
    part.chmod(stat.S_IMODE(mode))
    part.rename(path)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Makes the folder a prepared one; the last thing done."""
    text = json.dumps({"format": FORMAT, "torch": torch.__version__} | content, indent=2)
    with whole(folder / MANIFEST) as part:
        part.write_text(text + "\n", encoding="utf-8")
