"""Finds the quantised tensors of a single file, by the marks that ComfyUI reads.

Two markings are in use. The older has a tensor `scaled_fp8` and beside each `X.weight` its
`X.scale_weight` and `X.scale_input`; a marker of two elements asks for products in full precision.
The present one describes each layer in JSON, as a tensor `X.comfy_quant` or in the header's
metadata, with `X.weight_scale` and `X.input_scale` beside it. The scales of inputs are not used:
the engine measures activations as it computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues, shown
from inference_server.model.weights.model_files import parse_json
from inference_server.model.weights.scaling import Scaling, is_group
from inference_server.model.weights.tensor_reader import TensorReader

MARKER: Final = "scaled_fp8"
LAYER_MARK: Final = ".comfy_quant"
METADATA: Final = "_quantization_metadata"
WEIGHT: Final = ".weight"
SCALES: Final = (".weight_scale", ".scale_weight")
AUXILIARY: Final = (LAYER_MARK, *SCALES, ".input_scale", ".scale_input")
"""Endings of tensors that describe others."""

FORMATS: Final = {
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "int8_tensorwise": "I8",
}
"""Formats that are read, and the element type of each."""

INTEGERS: Final = ("I8", "I16", "I32", "I64", "U8", "BOOL")
"""Element types that are no weights by themselves."""

DEFAULT_GROUP: Final = 256
MAX_MARK_BYTES: Final = 4096

INSTEAD: Final = (
    "use the same model as bf16, fp8 (scaled or not), ConvRot int8, or GGUF, or a diffusers folder"
)


def is_auxiliary(name: str) -> bool:
    """Returns True for a tensor that describes others."""
    return name.endswith(AUXILIARY) or name.rpartition(".")[2] == MARKER


def scalings(reader: TensorReader, prefix: str) -> dict[str, Scaling]:
    """Returns the scaling of every tensor that has one, by its name in the file.

    Args:
        reader: the file.
        prefix: of the component's tensors, which the metadata's layers may have or not.

    Raises:
        ModelError: a mark is damaged, or of a format that is not read.
    """
    names = frozenset(reader.names)
    full = _marker_asks_for_full_precision(reader, names, prefix)
    marks = _layer_marks(reader, names)
    found = {}
    for name in names:
        if not name.startswith(prefix) or is_auxiliary(name):
            continue
        if not name.endswith(WEIGHT):
            _check_plain(reader, name)
            _check_known(reader.path, name, names)
            continue
        module = name.removesuffix(WEIGHT)
        mark = marks.get(module) or marks.get(module.removeprefix(prefix))
        scale = next((module + end for end in SCALES if module + end in names), None)
        stored = reader.stored_as(name)
        if mark is not None:
            _check_format(reader.path, module, mark, stored)
        if mark is None or scale is None:
            _check_plain(reader, name)
        if scale is None:
            continue
        found[name] = Scaling(
            _scale(reader, scale, reader.shape(name)),
            _group(reader, mark, name) if mark is not None else 0,
            mark.flag("full_precision_matrix_mult") if mark is not None else full,
        )
    return found


def _check_plain(reader: TensorReader, name: str) -> None:
    if (stored := reader.stored_as(name)) in INTEGERS:
        raise ModelError(
            f"{reader.path} holds {shown(name)} as {stored} without saying how it is scaled: "
            f"{INSTEAD}"
        )


def _check_known(path: Path, name: str, names: frozenset[str]) -> None:
    """Refuses what lies beside a weight and is not its bias: without it, the weight is another."""
    module, _, kind = name.rpartition(".")
    if kind != "bias" and module + WEIGHT in names:
        raise ModelError(
            f"{path} holds {shown(name)} beside a weight, a form that is not read: {INSTEAD}"
        )


def _marker_asks_for_full_precision(
    reader: TensorReader, names: frozenset[str], prefix: str
) -> bool:
    marker = next((name for name in (prefix + MARKER, MARKER) if name in names), None)
    return marker is not None and torch.Size(reader.shape(marker)).numel() == 2


def _layer_marks(reader: TensorReader, names: frozenset[str]) -> dict[str, ConfigValues]:
    """Returns the JSON descriptions of layers, by module."""
    marks: dict[str, ConfigValues] = {}
    if (text := reader.metadata.get(METADATA)) is not None:
        where = f"{reader.path}: {METADATA}"
        layers = parse_json(text.encode(errors="surrogatepass"), where).get("layers")
        if not isinstance(layers, dict):
            raise ModelError(f"{where}: layers is {shown(layers)}, not a table")
        for module, mark in layers.items():
            marks[module] = _mark(reader.path, module, mark)
    for name in names:
        if name.endswith(LAYER_MARK):
            module = name.removesuffix(LAYER_MARK)
            if torch.Size(reader.shape(name)).numel() > MAX_MARK_BYTES:
                raise ModelError(f"{reader.path}: {shown(name)} is larger than a mark is")
            data = bytes(reader.read(name).flatten().view(torch.uint8).tolist())
            mark = parse_json(data, f"{reader.path}: {shown(name)}")
            marks[module] = _mark(reader.path, module, mark)
    return marks


def _mark(path: Path, module: str, mark: Any) -> ConfigValues:
    if isinstance(mark, str):
        mark = {"format": mark}
    if not isinstance(mark, Mapping):
        raise ModelError(f"{path}: the mark of {shown(module)} is {shown(mark)}, not a table")
    return ConfigValues(f"{path}: the mark of {shown(module)}", mark)


def _check_format(path: Path, module: str, mark: ConfigValues, stored: str) -> None:
    name = mark.text("format")
    if name not in FORMATS:
        raise ModelError(
            f"{path} holds {shown(module)} in the format {shown(name)}, which is not read: "
            f"{INSTEAD}"
        )
    if stored != FORMATS[name]:
        raise ModelError(
            f"{path} holds {shown(module)} as {stored}, its mark says {name}: download it again"
        )


def _group(reader: TensorReader, mark: ConfigValues, name: str) -> int:
    """Returns the group size of a rotated matrix; 0 if it is not rotated."""
    if not mark.flag("convrot"):
        return 0
    group = mark.integer("convrot_groupsize", DEFAULT_GROUP, most=1 << 31)
    shape = reader.shape(name)
    if not is_group(group) or len(shape) != 2 or shape[1] % group:
        raise ModelError(
            f"{reader.path}: {shown(name)} is {list(shape)} and rotated in groups of {group}; a "
            "group is a power of four that divides the columns of a matrix"
        )
    return group


def _scale(reader: TensorReader, name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Reads a scale: one number, or one for each row of a matrix."""
    count = torch.Size(held := reader.shape(name)).numel()
    if (
        not shape
        or count not in (1, shape[0])
        or set(held) - {1, count}
        or reader.stored_as(name) in INTEGERS
    ):
        raise ModelError(
            f"{reader.path}: {shown(name)} is {list(held)} of {reader.stored_as(name)} for a "
            f"weight of {list(shape)}; only one scale, or one for each row, is read: {INSTEAD}"
        )
    scale = reader.read(name).float().reshape(count, 1)
    if not scale.isfinite().all():
        raise ModelError(f"{reader.path}: {shown(name)} is not finite: download the file again")
    return scale
