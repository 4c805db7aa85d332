"""Keeps looking at the directory: periodic full scans, and at once where an event points.

Owns when to look. What a look means is decided in admission.py; what follows from it is the
business of whoever is handed the changes. Never blocks the event loop: the file system is
touched in a thread only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from lora_manager.admission import Admission, Changes, Hints
from lora_manager.directory import Scan, inspect, is_closed, scan
from lora_manager.found import Found
from lora_manager.watch import DirectoryWatch, HintBox
from wuliart.contract.limits import MAX_LISTED_ADAPTERS

log = logging.getLogger(__name__)

_BURST_SECONDS: Final = 0.1
"""Full scans that events ask for are at least this far apart."""


class DirectoryFollower:
    """Turns a directory into a sequence of changes."""

    def __init__(
        self,
        root: Path,
        admission: Admission,
        on_changes: Callable[[Changes], None],
        *,
        rescan_seconds: float,
        poll: bool,
    ) -> None:
        self._root = root
        self._admission = admission
        self._on_changes = on_changes
        self._rescan_seconds = rescan_seconds
        self._box = HintBox()
        self._watch = None if poll else DirectoryWatch(root, self._box)
        self._watched: tuple[int, int] | None = None
        self._threads = ThreadPoolExecutor(1, "scanner")
        self._unreadable = False
        self._full = False
        self.started = asyncio.Event()
        """Set when the directory has been listed once."""

    async def run(self) -> None:
        """Follow the directory until cancelled."""
        clock = asyncio.get_running_loop().time
        if self._watch is not None and not self._watch.start():
            self._watched = (0, 0)  # no root; the first one that is seen is tried again
        last_scan, next_scan = clock() - _BURST_SECONDS, clock()
        try:
            while True:
                await self._box.wait(next_scan - clock())
                if self._box.rescan:
                    next_scan = min(next_scan, last_scan + _BURST_SECONDS)
                if clock() >= next_scan:
                    await self._scan()
                    last_scan = clock()
                    next_scan = last_scan + self._rescan_seconds
                else:
                    await self._look(self._box.take_files())
        finally:
            if self._watch is not None:
                self._watch.stop()
            self._threads.shutdown(wait=False)

    async def _scan(self) -> None:
        loop = asyncio.get_running_loop()
        # Taken before the scan: what an event says must not be older than what the scan sees.
        hints = self._box.take_all()
        try:
            seen, closed = await loop.run_in_executor(self._threads, self._list)
        except OSError as error:
            if not self._unreadable:
                log.warning(
                    "%s cannot be listed (%s); everything stays as it was",
                    self._root, error.strerror,
                )  # fmt: skip
            self._unreadable = True
            return
        self._unreadable = False
        self._follow_root(seen)
        if seen.full and not self._full:
            log.warning(
                "%s has %d adapter files or more; what comes behind these in the order of folders "
                "and names is not listed: remove some", self._root, MAX_LISTED_ADAPTERS,
            )  # fmt: skip
        self._full = seen.full
        hints |= Hints(arrived=closed)
        changes = self._admission.observe(seen, hints, now=loop.time(), wall_ns=time.time_ns())
        self._on_changes(changes)
        self.started.set()

    def _list(self) -> tuple[Scan, frozenset[str]]:
        """The directory and, at the first look, which files are closed: no event has told."""
        seen = scan(self._root)
        files = () if self._admission.started else seen.files.values()
        return seen, frozenset(found.relative for found in files if is_closed(found))

    def _follow_root(self, seen: Scan) -> None:
        """Watch the folder that is now at the root's path, not one that was moved away."""
        if self._watch is not None and self._watched not in (None, seen.root):
            self._watch.start()
        self._watched = seen.root

    async def _look(self, hints: Hints) -> None:
        paths = hints.arrived | hints.gone
        if not paths:
            return
        seen = await asyncio.get_running_loop().run_in_executor(self._threads, self._inspect, paths)
        found = [f for f in seen.values() if f is not None]
        if (
            not self._admission.started
            or self._full
            or any(map(self._admission.knows_elsewhere, found))
        ):
            self._box.folder(hints)
            return
        self._on_changes(self._admission.observe_hinted(seen, hints))

    def _inspect(self, paths: frozenset[str]) -> dict[str, Found | None]:
        seen: dict[str, Found | None] = {}
        for path in paths:
            try:
                seen[path] = inspect(self._root, path)
            except OSError:
                log.debug("%s could not be looked at; the next scan will", path)
        return seen
