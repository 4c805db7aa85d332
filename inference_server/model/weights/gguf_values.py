"""Reads the values of a GGUF file's header, which may come from an untrusted publisher.

Nothing is allocated by a number of the file: values are read one by one, up to a limit of all.
Of the metadata only short texts, whole numbers and shapes are kept.

Source of the layout: ggml's docs/gguf.md.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import BinaryIO, Final

from inference_server.model.config_values import shown

MAX_HEADER_BYTES: Final = 16 << 20
"""Largest header that is read; Qwen-Image's have 0.2 MB, a text encoder's with its vocabulary 6."""
MAX_ENTRIES: Final = 65_536
"""Most tensors, and most fields of metadata; Qwen-Image has 1,933 tensors."""
MAX_NAME_BYTES: Final = 1024
MAX_TEXT_BYTES: Final = 4096
"""Longest text of the metadata that is kept."""
MAX_DIMENSIONS: Final = 8

_SCALARS: Final[Mapping[int, str]] = {
    **{0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"},
}
"""Type of a value -> its code in `struct`."""
_TEXT: Final = 8
_ARRAY: Final = 9

Value = str | int | tuple[int, ...]


class HeaderError(ValueError):
    """The file cannot be used; the text says why, without the file's name."""


class DamagedError(HeaderError):
    """The file contradicts itself or the format."""


class ValueReader:
    """Reads values from a file at its position, never beyond `MAX_HEADER_BYTES`.

    Every method raises DamagedError if the file ends or exceeds a limit.

    Attributes:
        at: the number of bytes that were read.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.at = 0

    def take(self, count: int) -> bytes:
        """Returns the next `count` bytes."""
        if count > MAX_HEADER_BYTES - self.at:
            raise DamagedError(f"its header has more than {MAX_HEADER_BYTES:,} bytes")
        data = self._file.read(count)
        if len(data) != count:
            raise DamagedError("it ends inside of its header")
        self.at += count
        return data

    def number(self, size: int) -> int:
        """Returns an unsigned number of `size` bytes."""
        return int.from_bytes(self.take(size), "little")

    def count(self, what: str) -> int:
        """Returns a number of entries."""
        if (count := self.number(8)) > MAX_ENTRIES:
            raise DamagedError(f"it announces {count:,} {what}")
        return count

    def name(self) -> str:
        """Returns the name of a tensor or field."""
        if (size := self.number(8)) > MAX_NAME_BYTES:
            raise DamagedError(f"it holds a name of {size:,} bytes")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError:
            raise DamagedError("it holds a name that is not UTF-8") from None

    def shape(self, name: str) -> tuple[int, ...]:
        """Returns the dimensions of a tensor, the fastest first as the file has them."""
        if (dimensions := self.number(4)) > MAX_DIMENSIONS:
            raise DamagedError(f"{shown(name)} has {dimensions:,} dimensions")
        return tuple(self.number(8) for _ in range(dimensions))

    def value(self) -> Value | None:
        """Returns a value of the metadata with its type; None for what is not kept."""
        if (kind := self.number(4)) == _ARRAY:
            return self._array()
        if kind == _TEXT:
            data = self.take(self.number(8))
            return data.decode(errors="replace") if len(data) <= MAX_TEXT_BYTES else None
        value = self._scalars(kind, 1)[0]
        return value if type(value) is int else None

    def _array(self) -> tuple[int, ...] | None:
        kind, count = self.number(4), self.number(8)
        if kind == _ARRAY:
            raise DamagedError("it holds an array of arrays")
        if kind == _TEXT:
            for _ in range(count):
                self.take(self.number(8))
            return None
        if count > MAX_DIMENSIONS:
            self.take(count * struct.calcsize(_code(kind)))
            return None
        values = self._scalars(kind, count)
        return values if all(type(value) is int for value in values) else None

    def _scalars(self, kind: int, count: int) -> tuple[int, ...]:
        code = f"<{count}{_code(kind)}"
        return struct.unpack(code, self.take(struct.calcsize(code)))


def _code(kind: int) -> str:
    if kind not in _SCALARS:
        raise DamagedError(f"it holds a value of type {kind:,}, which the format does not have")
    return _SCALARS[kind]
