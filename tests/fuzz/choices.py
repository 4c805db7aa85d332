"""Decisions read from bytes, so that whatever changes the bytes changes the decisions.

Owns the reading: every string of bytes is a valid sequence of decisions, and behind its end each
is the first of its kind. Knows nothing of what is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")


class Choices:
    """The decisions in `data`, one after another."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def __bool__(self) -> bool:
        return self._at < len(self._data)

    def bytes(self, count: int) -> bytes:
        """The next `count` bytes, or as many as there are."""
        piece = self._data[self._at : self._at + count]
        self._at += count
        return piece

    def number(self, bits: int) -> int:
        """An unsigned number; the largest and the smallest are as near as any other."""
        kind = self.below(4)
        if kind == 0:
            return self.below(256)
        if kind == 1:
            return (1 << bits) - 1 - self.below(256)
        return int.from_bytes(self.bytes(bits // 8), "little")

    def below(self, count: int) -> int:
        """A number below `count`, at most 256."""
        return int.from_bytes(self.bytes(1), "little") % count

    def pick(self, options: Sequence[T]) -> T:
        """One of at most 256 options."""
        return options[self.below(len(options))]

    def coin(self) -> bool:
        """Yes or no."""
        return bool(self.below(2))

    def text(self, longest: int = 40) -> str:
        """Valid Unicode, now and then much of it."""
        count = self.below(longest + 1)
        text = self.bytes(count).decode("utf-8", "replace")
        return text * 64 if self.below(16) == 15 else text
