"""Collects file system events on the event loop until the follower takes them."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Hints:
    """Paths below the root, of files or of folders."""

    arrived: frozenset[str] = frozenset()
    """Closed after writing, or moved in."""
    gone: frozenset[str] = frozenset()
    """Deleted, or moved away."""

    def __or__(self, other: Hints) -> Hints:
        return Hints(self.arrived | other.arrived, self.gone | other.gone)


class HintBox:
    """Hints that have not been taken yet. All methods run on the event loop."""

    def __init__(self) -> None:
        self._files = Hints()
        self._folders = Hints()
        self._rescan = False
        self._filled = asyncio.Event()

    def file(self, hints: Hints) -> None:
        """Adds hints about single files."""
        self._files |= hints
        self._filled.set()

    def folder(self, hints: Hints) -> None:
        """Adds hints that only a full scan can judge."""
        self._folders |= hints
        self._rescan = True
        self._filled.set()

    async def wait(self, seconds: float) -> None:
        """Waits for a hint, at most so many seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(0.0, seconds)):
                await self._filled.wait()

    def take_files(self) -> Hints:
        """Removes and returns the hints about single files."""
        hints, self._files = self._files, Hints()
        self._filled.clear()
        return hints

    def take_all(self) -> Hints:
        """Removes and returns all hints, for a full scan."""
        hints = self.take_files() | self._folders
        self._folders, self._rescan = Hints(), False
        return hints

    @property
    def rescan(self) -> bool:
        """True if a hint calls for a full scan."""
        return self._rescan
