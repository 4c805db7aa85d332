"""Reads the safetensors container of untrusted files: the header, and where each tensor lies.

`read_header` needs the header's bytes and the file's size, which decide if the file is well-formed.
Tensors are views of the given bytes. Nothing is mapped or unpickled.
Format: https://huggingface.co/docs/safetensors (8 bytes header length, little endian; a JSON
header; then one buffer that the tensors fill without gap or overlap).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Final

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.strict_json import RepeatedKeyError, parse_json

MAX_HEADER_BYTES: Final = 32 << 20
"""A header of 1,680 LoRA tensors takes 0.25 MB; trainers' lists of tags add 5 MB and more."""

MAX_HEADER_VALUES: Final = 1_000_000
"""Values of a header's JSON that are read. Parsing costs about 80 bytes of memory a value, however
short it is: without this bound a header of 32 MB takes 1 GB and 6 s. The largest LoRA has 25,000;
a list of tags in a metadata text is one value."""

MAX_TENSORS: Final = 20_000
"""The largest Qwen-Image LoRA has 2,600: 866 linear layers, each with A, B and alpha."""

MAX_NAME_CHARACTERS: Final = 512

MAX_DIMENSIONS: Final = 8

FORMAT_HEADER_BYTES: Final = 100_000_000
"""The format's own limit. A file that announces more is not a safetensors file."""

DTYPE_BYTES: Final = {
    "F8_E4M3": 1, "F8_E5M2": 1, "F16": 2, "BF16": 2, "F32": 4, "F64": 8, "I32": 4, "I64": 8,
}  # fmt: skip
"""Bytes of each element type that is read. Weights are of the first five only; trainers write a
module's alpha, a single number, as any of them."""

_LENGTH_BYTES: Final = 8

HEAD_BYTES: Final = 64
"""Bytes at a file's beginning that identify a file that is not safetensors."""

_OTHER_FORMATS: Final = (
    (b"PK\x03\x04", "a zip archive (PyTorch's .pt and .bin are zipped pickles), never loaded"),
    (b"GGUF", "a GGUF file, which is not read"),
    (b"version https://git-lfs", "a Git LFS pointer instead of the file it points to"),
    (b"<", "a web page, probably the error page of a failed download"),
)


@dataclass(frozen=True, slots=True)
class Span:
    """One tensor in the file: bytes `begin` to `end` of the buffer that follows the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Tensor:
    """One tensor of a file; `data` is its little-endian row-major content."""

    dtype: str
    shape: tuple[int, ...]
    data: memoryview


@dataclass(frozen=True, slots=True)
class Header:
    """A file's header, checked against the file's size."""

    spans: dict[str, Span]
    metadata: dict[str, str]
    nbytes: int
    """Bytes before the buffer, the header's length field included."""

    def tensors(self, data: memoryview) -> dict[str, Tensor]:
        """Views of the tensors in `data`, the whole file as bytes."""
        buffer = data[self.nbytes :]
        return {
            name: Tensor(span.dtype, span.shape, buffer[span.begin : span.end])
            for name, span in self.spans.items()
        }


@dataclass(frozen=True, slots=True)
class SafetensorsFile:
    """A whole file, checked."""

    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_safetensors(data: bytes | bytearray | memoryview) -> SafetensorsFile:
    """Checks the container and returns views of its tensors.

    Raises:
        LoraError: the file is incomplete, malformed, or above a limit.
    """
    view = memoryview(data).cast("B").toreadonly()
    header = read_header(view, len(view))
    return SafetensorsFile(header.tensors(view), header.metadata)


def header_bytes(head: bytes, file_bytes: int) -> int:
    """Returns how many bytes of a file `read_header` needs.

    Args:
        head: the file's first `HEAD_BYTES` bytes, or all of a shorter file.
        file_bytes: the file's size.

    Raises:
        LoraError: the file is not safetensors, or shorter than its header.
    """
    return _LENGTH_BYTES + _header_length(head, file_bytes)


def read_header(start: bytes | memoryview, file_bytes: int) -> Header:
    """Parses and checks a file's header.

    Args:
        start: the beginning of the file, at least its header.
        file_bytes: the file's size.

    Raises:
        LoraError: the file is incomplete, malformed, or above a limit.
    """
    view = memoryview(start)
    nbytes = _LENGTH_BYTES + _header_length(bytes(view[:HEAD_BYTES]), file_bytes)
    header = _parse_header(bytes(view[_LENGTH_BYTES:nbytes]))
    metadata = _read_metadata(header.pop("__metadata__", None))
    if len(header) > MAX_TENSORS:
        raise LoraError(
            f"the file lists {len(header):,} tensors and at most {MAX_TENSORS:,} are read; "
            "it is not a LoRA for this model"
        )
    spans = {name: _read_entry(name, entry) for name, entry in header.items()}
    _check_spans(spans, nbytes, file_bytes)
    return Header(spans, metadata, nbytes)


def other_format(head: bytes) -> str | None:
    """Returns what a file is by its first `HEAD_BYTES` bytes; None if it may be safetensors."""
    # A safetensors file whose header is 640 bytes long begins with 80 02 too; a brace follows.
    if head[8:9] == b"{":
        return None
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle, which can run code and is never loaded"
    for magic, what in _OTHER_FORMATS:
        if head.startswith(magic):
            return what
    return None


def _header_length(head: bytes, file_bytes: int) -> int:
    """Returns the length of the JSON header in bytes; raises for files of other formats."""
    if file_bytes == 0:
        raise LoraError("the file is empty; copy it again")
    if not any(head):
        raise LoraError(
            "the file begins with zeros, as a download or copy does whose space was reserved "
            "before its content arrived; wait for it to finish or copy it again"
        )
    if (what := other_format(head)) is not None:
        raise LoraError(_not_safetensors(what))
    if file_bytes < _LENGTH_BYTES:
        raise LoraError(
            f"the file is truncated: it has {file_bytes} bytes, fewer than any header; copy it "
            "again"
        )
    length = int.from_bytes(head[:_LENGTH_BYTES], "little")
    if length > FORMAT_HEADER_BYTES:
        raise LoraError(
            f"the file is not a safetensors file: it would begin with a header of {length:,} bytes "
            f"and the format allows {FORMAT_HEADER_BYTES:,}; get the LoRA itself, as .safetensors"
        )
    if length > MAX_HEADER_BYTES:
        raise LoraError(
            f"the file has a header of {length:,} bytes, above this service's limit of "
            f"{MAX_HEADER_BYTES:,}; save it with less metadata"
        )
    if file_bytes < _LENGTH_BYTES + length:
        raise LoraError(_truncated(_LENGTH_BYTES + length, file_bytes, at_least="at least "))
    if length < 2 or head[8:9] != b"{":
        raise LoraError(_not_safetensors("something else"))
    return length


def _not_safetensors(what: str) -> str:
    return f"the file is {what}; get the LoRA itself, as .safetensors"


def _truncated(expected: int, actual: int, at_least: str = "") -> str:
    return (
        f"the file is truncated: {at_least}{expected:,} bytes expected, {actual:,} found; "
        "wait for the copy to finish or copy it again"
    )


def _damaged(what: str) -> LoraError:
    return LoraError(f"the file's header is damaged: {what}; download or export it again")


def _parse_header(raw: bytes) -> dict[str, Any]:
    _check_values(raw)
    try:
        header = parse_json(raw.decode("utf-8"))
    except RepeatedKeyError as error:
        raise _damaged(f"{shown(error.key)!r} appears more than once") from None
    except (ValueError, RecursionError) as error:
        raise _damaged("it is not JSON") from error
    if not isinstance(header, dict):
        raise _damaged("it is not a JSON object")
    return header


def _check_values(raw: bytes) -> None:
    """Raises `LoraError` for a header of too many values, from its commas, brackets and quotes."""
    if len(raw) <= MAX_HEADER_VALUES:
        return
    unescaped = raw.replace(b"\\\\", b"").replace(b'\\"', b"")
    # Each piece costs memory, so quotes are counted before the text is split at them.
    many = unescaped.count(b'"') > 2 * MAX_HEADER_VALUES
    if not many:
        outside = b"".join(unescaped.split(b'"')[::2])
        many = sum(map(outside.count, (b",", b"[", b"{"))) > MAX_HEADER_VALUES
    if many:
        raise LoraError(
            f"the file has a header of {len(raw):,} bytes with more than {MAX_HEADER_VALUES:,} "
            "values; save it with less metadata"
        )


def _read_metadata(metadata: object) -> dict[str, str]:
    """Returns the fields as text. Some writers put null for none, or values that are no strings."""
    if metadata is None:
        return {}
    if not isinstance(metadata, dict):
        raise _damaged("its __metadata__ is not a table")
    try:
        return {
            name: value if isinstance(value, str) else json.dumps(value)
            for name, value in metadata.items()
            if value is not None
        }
    except (ValueError, RecursionError):
        raise _damaged("its __metadata__ is nested too deeply") from None


def _is_size(value: object) -> bool:
    # In Python, bool is an int; in the format it is not.
    return type(value) is int and 0 <= value < 1 << 63


def _read_entry(name: str, entry: object) -> Span:
    """Reads one tensor's entry, and checks that its shape and its bytes agree."""
    if len(name) > MAX_NAME_CHARACTERS:
        raise _damaged(f"the name {shown(name)!r} is {len(name):,} characters long")
    if not isinstance(entry, Mapping) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise _damaged(f"the entry of {shown(name)!r} is not dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BYTES:
        raise LoraError(
            f"{shown(name)!r} has element type {shown(str(dtype))}; convert the file to F32, BF16, "
            "F16 or F8_E4M3"
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
    return Span(dtype, tuple(shape), begin, end)


def _check_spans(spans: Mapping[str, Span], start: int, file_bytes: int) -> None:
    """Raises `LoraError` for gaps, overlaps, a short file, and bytes after the last tensor.

    `start` is the offset of the buffer in the file.
    """
    ordered = sorted((span.begin, span.end, name) for name, span in spans.items())
    if ordered and ordered[0][0] != 0:
        raise _damaged(f"there are unused bytes before {shown(ordered[0][2])!r}")
    for (_, end, name), (begin, _, following) in pairwise(ordered):
        if begin != end:
            how = "overlap" if begin < end else "leave a gap"
            raise _damaged(f"{shown(name)!r} and {shown(following)!r} {how}")
    expected = start + (ordered[-1][1] if ordered else 0)
    if expected > file_bytes:
        raise LoraError(_truncated(expected, file_bytes))
    if expected < file_bytes:
        raise LoraError(
            f"{file_bytes - expected:,} bytes follow the last tensor and belong to nothing; "
            "the file is damaged or carries something else: export it again"
        )
