"""Reads a safetensors file that lies in memory, trusting nothing in it.

Owns the container format: the header, its limits, and where each tensor's bytes lie. Knows
nothing of LoRA. Tensors are views of the given bytes; nothing is copied, mapped or unpickled.
Format: https://huggingface.co/docs/safetensors (8 bytes header length, little endian; a JSON
header; then one buffer that the tensors fill without gap or overlap).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from wuliart.lora.errors import LoraRefused, shown

MAX_HEADER_BYTES: Final = 4 << 20
"""A header of 1,680 LoRA tensors takes 0.25 MB; trainers' notes can add a megabyte or two."""

MAX_TENSORS: Final = 20_000
"""The largest Qwen-Image LoRA has 2,600: 866 linear layers, each with A, B and alpha."""

MAX_NAME_CHARACTERS: Final = 512

MAX_DIMENSIONS: Final = 8

DTYPE_BYTES: Final = {"F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8}
"""Element types that are read. Weights are only ever the first three; trainers write a module's
alpha, a single number, as any of them."""

_LENGTH_BYTES: Final = 8


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file; `data` is its little-endian row-major content."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A whole file, checked."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_safetensors(data: bytes | bytearray | memoryview) -> SafetensorsFile:
    """Checks the container and returns views of its tensors.

    Raises `LoraRefused` for anything but a complete, well-formed file within the limits above.
    """
    view = memoryview(data).cast("B").toreadonly()
    header_bytes = _header_length(view)
    start = _LENGTH_BYTES + header_bytes
    header = _parse_header(bytes(view[_LENGTH_BYTES:start]))
    metadata = _read_metadata(header.pop("__metadata__", {}))
    if len(header) > MAX_TENSORS:
        raise LoraRefused(
            f"the file lists {len(header):,} tensors and at most {MAX_TENSORS:,} are read; "
            "it is not a LoRA for this model"
        )
    buffer = view[start:]
    spans: list[tuple[int, int, str]] = []
    tensors: dict[str, Tensor] = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _read_entry(name, entry)
        spans.append((begin, end, name))
        tensors[name] = Tensor(dtype, shape, buffer[begin:end])
    _check_spans(spans, start, len(view))
    return SafetensorsFile(tensors, metadata)


def _header_length(view: memoryview) -> int:
    """Length of the JSON header in bytes, after ruling out what is not safetensors at all."""
    if len(view) == 0:
        raise LoraRefused("the file is empty; copy it again")
    head = bytes(view[:64])
    if not any(head):
        raise LoraRefused(
            "the file begins with zeros, as a download or copy does whose space was reserved "
            "before its content arrived; wait for it to finish or copy it again"
        )
    # A safetensors file whose header is 640 bytes long begins with 80 02 too; a brace follows.
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[8:9] != b"{":
        raise LoraRefused(_not_safetensors("a pickle, which can run code and is never loaded"))
    for magic, what in (
        (b"PK\x03\x04", "a zip archive (PyTorch's .pt and .bin are zipped pickles), never loaded"),
        (b"GGUF", "a GGUF file, which is not read"),
        (b"version https://git-lfs", "a Git LFS pointer instead of the file it points to"),
        (b"<", "a web page, probably the error page of a failed download"),
    ):
        if head.startswith(magic) and head[8:9] != b"{":
            raise LoraRefused(_not_safetensors(what))
    if len(view) < _LENGTH_BYTES:
        raise LoraRefused(
            f"the file is truncated: it has {len(view)} bytes, fewer than any header; copy it again"
        )
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > MAX_HEADER_BYTES:
        raise LoraRefused(
            f"the file announces a header of {length:,} bytes and at most {MAX_HEADER_BYTES:,} are "
            "read; it is not a safetensors file, or it is damaged"
        )
    if len(view) < _LENGTH_BYTES + length:
        raise LoraRefused(_truncated(_LENGTH_BYTES + length, len(view), at_least="at least "))
    if length < 2 or head[8:9] != b"{":
        raise LoraRefused(_not_safetensors("something else"))
    return length


def _not_safetensors(what: str) -> str:
    return f"the file is {what}; get the LoRA itself, as .safetensors"


def _truncated(expected: int, actual: int, at_least: str = "") -> str:
    return (
        f"the file is truncated: {at_least}{expected:,} bytes expected, {actual:,} found; "
        "wait for the copy to finish or copy it again"
    )


def _damaged(what: str) -> LoraRefused:
    return LoraRefused(f"the file's header is damaged: {what}; download or export it again")


def _parse_header(raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(pairs)
        if len(table) != len(pairs):
            [(twice, _)] = Counter(key for key, _ in pairs).most_common(1)
            raise _damaged(f"{shown(twice)!r} appears more than once")
        return table

    try:
        header = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)
    except LoraRefused:
        raise
    except (ValueError, RecursionError) as error:
        raise _damaged("it is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged("it is not a JSON object")
    return header


def _read_metadata(metadata: object) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise _damaged("its __metadata__ is not a table of strings")
    return metadata


def _is_size(value: object) -> bool:
    # bool is an int to Python and not to the format.
    return type(value) is int and 0 <= value < 1 << 63


def _read_entry(name: str, entry: object) -> tuple[str, tuple[int, ...], int, int]:
    """(dtype, shape, first byte, byte after the last) of one tensor, sizes agreeing."""
    if len(name) > MAX_NAME_CHARACTERS:
        raise _damaged(f"the name {shown(name)!r} is {len(name):,} characters long")
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"the entry of {shown(name)!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise LoraRefused(
            f"{shown(name)!r} has element type {shown(str(dtype))}; convert the file to F32, BF16 "
            "or F16"
        )
    if not isinstance(shape, list) or len(shape) > MAX_DIMENSIONS:
        raise _damaged(f"the shape of {shown(name)!r} is not a list of sizes")
    # Python's integers do not overflow, so a hostile shape yields a product that cannot match.
    expected = DTYPE_BYTES[dtype]
    for size in shape:
        if not _is_size(size):
            raise _damaged(f"the shape of {shown(name)!r} is not a list of sizes")
        expected *= size
    if not (
        isinstance(offsets, list)
        and len(offsets) == 2
        and _is_size(offsets[0])
        and _is_size(offsets[1])
    ):
        raise _damaged(f"the data_offsets of {shown(name)!r} are not two positions")
    begin, end = offsets
    if end - begin != expected:
        raise _damaged(
            f"{shown(name)!r} of shape {shape} in {dtype} takes {expected:,} bytes, "
            f"its data_offsets span {end - begin:,}"
        )
    return dtype, tuple(shape), begin, end


def _check_spans(spans: list[tuple[int, int, str]], start: int, file_bytes: int) -> None:
    """Refuses gaps, overlaps, a file that is too short, and bytes after the last tensor.

    `start` is where the buffer begins in the file, in bytes.
    """
    spans.sort()
    if spans and spans[0][0] != 0:
        raise _damaged(f"there are unused bytes before {shown(spans[0][2])!r}")
    for (_, end, name), (begin, _, following) in pairwise(spans):
        if begin != end:
            how = "overlap" if begin < end else "leave a gap"
            raise _damaged(f"{shown(name)!r} and {shown(following)!r} {how}")
    expected = start + (spans[-1][1] if spans else 0)
    if expected > file_bytes:
        raise LoraRefused(_truncated(expected, file_bytes))
    if expected < file_bytes:
        raise LoraRefused(
            f"{file_bytes - expected:,} bytes follow the last tensor and belong to nothing; "
            "the file is damaged or carries something else: export it again"
        )
