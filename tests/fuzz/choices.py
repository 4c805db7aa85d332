"""Decisions read from bytes, so that a change of the bytes changes the decisions.

Every byte string is a valid sequence of decisions; beyond its end each decision is the first
option.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """Reads decisions from `data`, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        """Returns the next `count` bytes, fewer at the end."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, bits: int) -> int:
        """Returns an unsigned number of `bits` bits, often one near 0 or near the maximum."""
        kind = self.below(4)
        if kind == 0:
            return self.below(256)
        if kind == 1:
            return (1 << bits) - 1 - self.below(256)
        return int.from_bytes(self.bytes(bits // 8), "little")

    def below(self, count: int) -> int:
        """Returns a number below `count`, which is at most 256."""
        return int.from_bytes(self.bytes(1), "little") % count

    def pick(self, options: Sequence[T]) -> T:
        """Returns one of at most 256 options."""
        return options[self.below(len(options))]

    def coin(self) -> bool:
        """Returns True or False."""
        return bool(self.below(2))

    def text(self, longest: int = 40) -> str:
        """Returns valid Unicode, occasionally repeated 64 times."""
        count = self.below(longest + 1)
        text = self.bytes(count).decode("utf-8", "replace")
        return text * 64 if self.below(16) == 15 else text
