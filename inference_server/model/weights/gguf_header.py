"""Parses the header of a GGUF file, versions 2 and 3, and proves that the tensors lie in the file.

Source of the layout: ggml's docs/gguf.md; `comfy.gguf.orig_shape` is ComfyUI-GGUF's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import BinaryIO, Final, NamedTuple

from inference_server.model.config_values import shown
from inference_server.model.weights.gguf_types import OTHER_TYPES, TYPES, ElementType
from inference_server.model.weights.gguf_values import DamagedError, HeaderError, ValueReader

MAGIC: Final = b"GGUF"
VERSIONS: Final = (2, 3)
ALIGNMENT: Final = 32
"""Of the tensors' data in bytes, where the metadata does not say."""
TRUE_SHAPE: Final = "comfy.gguf.orig_shape."
"""Before a tensor's name: the field with its shape in PyTorch's order, written for a tensor that
had to be reshaped to be quantized."""

TRANSFORMER: Final = "qwen_image"
"""`general.architecture` of Qwen-Image's transformer."""
TEXT_ENCODER: Final = "qwen2vl"
"""`general.architecture` of Qwen2.5-VL."""
UNSPECIFIC: Final = (None, "pig", "cow")
"""What stable-diffusion.cpp (no field) and gguf-connector write for every model."""


class Entry(NamedTuple):
    """One tensor."""

    kind: ElementType
    shape: tuple[int, ...]
    """In PyTorch's order."""
    begin: int
    """Of its data, in bytes from the beginning of the file."""
    nbytes: int

    @property
    def stored_as(self) -> str:
        """Name of the element type, as GGUF gives it."""
        return self.kind.name


class Header(NamedTuple):
    """What is kept of a header."""

    texts: dict[str, str]
    tensors: dict[str, Entry]


class _TensorInfo(NamedTuple):
    name: str
    shape: tuple[int, ...]
    """In PyTorch's order."""
    kind: int
    offset: int
    """From the beginning of all data."""


def parse_header(file: BinaryIO, size: int) -> Header:
    """Parses a file's header.

    Args:
        file: the file, at its beginning.
        size: of the file in bytes.

    Raises:
        HeaderError: the file cannot be used.
        OSError: it cannot be read.
    """
    reader = ValueReader(file)
    if reader.take(len(MAGIC)) != MAGIC:
        raise DamagedError("it does not begin with GGUF")
    _check_version(reader.number(4))
    tensors, fields = reader.count("tensors"), reader.count("fields of metadata")
    texts: dict[str, str] = {}
    numbers: dict[str, int] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    seen: set[str] = set()
    for _ in range(fields):
        name = reader.name()
        if name in seen:
            raise DamagedError(f"it holds the field {shown(name)} twice")
        seen.add(name)
        match reader.value():
            case str(text):
                texts[name] = text
            case int(number):
                numbers[name] = number
            case tuple(shape) if name.startswith(TRUE_SHAPE):
                shapes[name.removeprefix(TRUE_SHAPE)] = shape
    _check_architecture(texts.get("general.architecture"))
    _refuse_parts(numbers)
    infos = [
        _TensorInfo(name := reader.name(), reader.shape(name)[::-1], *_kind_and_offset(reader))
        for _ in range(tensors)
    ]
    _refuse_other_types(infos)
    return Header(texts, _placed(infos, shapes, numbers, reader.at, size))


def _kind_and_offset(reader: ValueReader) -> tuple[int, int]:
    return reader.number(4), reader.number(8)


def _check_version(version: int) -> None:
    if version in VERSIONS:
        return
    if not version & 0xFFFF:
        raise HeaderError(
            "its byte order is big-endian. Convert it with `gguf-convert-endian FILE little`, "
            "which comes with the Python package gguf"
        )
    raise HeaderError(
        f"it has version {version:,} of GGUF, and this server reads versions 2 and 3. Convert the "
        "model again with a current ComfyUI-GGUF or llama.cpp"
    )


def _check_architecture(name: str | None) -> None:
    if name not in (TRANSFORMER, TEXT_ENCODER, *UNSPECIFIC):
        raise HeaderError(
            f"its general.architecture is {shown(name)}, another model. This server generates with "
            f"Qwen-Image, whose files say {TRANSFORMER!r}"
        )


def _refuse_parts(numbers: Mapping[str, int]) -> None:
    if (parts := numbers.get("split.count", 1)) > 1:
        raise HeaderError(
            f"it is part {numbers.get('split.no', 0) + 1:,} of {parts:,}. Join them with "
            "`llama-gguf-split --merge FIRST-PART WHOLE.gguf`, which comes with llama.cpp"
        )


def _refuse_other_types(infos: list[_TensorInfo]) -> None:
    others = [info for info in infos if info.kind not in TYPES]
    if not others:
        return
    names = sorted({OTHER_TYPES.get(info.kind, f"number {info.kind:,}") for info in others})
    listed = ", ".join(names[:5]) + (", and more" if len(names) > 5 else "")
    raise HeaderError(
        f"{len(others):,} of its {len(infos):,} tensors, such as {shown(others[0].name)}, are of "
        f"type {listed}. This server reads {', '.join(kind.name for kind in TYPES.values())}: use "
        "a file of one of these, such as Q4_K_M or Q8_0"
    )


def _placed(
    infos: list[_TensorInfo],
    shapes: Mapping[str, tuple[int, ...]],
    numbers: Mapping[str, int],
    header_bytes: int,
    size: int,
) -> dict[str, Entry]:
    """Returns the tensors, each proven to lie in the file and apart from the others."""
    alignment = numbers.get("general.alignment", ALIGNMENT)
    if alignment < 1 or alignment & (alignment - 1):
        raise DamagedError(f"its alignment is {alignment:,}, which is not a power of two")
    end = data_begin = -(-header_bytes // alignment) * alignment
    entries: dict[str, Entry] = {}
    for info in sorted(infos, key=lambda info: info.offset):
        if info.name in entries:
            raise DamagedError(f"it holds the tensor {shown(info.name)} twice")
        if info.offset % alignment:
            raise DamagedError(f"the data of {shown(info.name)} does not lie on {alignment} bytes")
        if (begin := data_begin + info.offset) < end:
            raise DamagedError(f"{shown(info.name)} overlaps another tensor")
        entry = _entry(info, shapes.get(info.name, info.shape), begin)
        entries[info.name] = entry
        end = begin + entry.nbytes
    if end > size:
        raise DamagedError(f"it has {size:,} bytes, {end:,} by its header")
    return entries


def _entry(info: _TensorInfo, shape: tuple[int, ...], begin: int) -> Entry:
    kind, row = TYPES[info.kind], info.shape[-1] if info.shape else 1
    if 0 in info.shape or row % kind.elements:
        raise DamagedError(
            f"{shown(info.name)} is {list(info.shape)} of {kind.name}, whose rows divide into "
            f"blocks of {kind.elements}"
        )
    elements = math.prod(info.shape)
    if any(n < 1 for n in shape) or math.prod(shape) != elements:
        raise DamagedError(
            f"{shown(info.name)} is {list(info.shape)}, and {list(shape)} by its true shape"
        )
    return Entry(kind, shape, begin, elements // kind.elements * kind.nbytes)
