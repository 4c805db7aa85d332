"""Keeps looking at the directory: periodic full scans, and at once where an event points.

Owns when to look. What a look means is decided in admission.py; what follows from it is the
business of whoever is handed the changes. Never blocks the event loop: the file system is
touched in a thread only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

from lora_manager.admission import Admission, DirectoryChanges
from lora_manager.candidates import LoraFile, Stamp
from lora_manager.directory import Scan, inspect, scan
from lora_manager.hints import HintBox, Hints
from lora_manager.inodes import InodeNumbers
from lora_manager.unfinished import Signs, signs_of
from lora_manager.watch import DirectoryWatch
from wuliart_contract.limits import MAX_LISTED_ADAPTERS

log = logging.getLogger(__name__)

_BURST_SECONDS: Final = 0.1
"""Full scans that events ask for are at least this far apart."""

_SCAN_SHARE: Final = 200
_LONGEST_SCAN_PAUSE: Final = 30.0
"""While events tell of changes, scans only look for what events have missed: they take no more than
half a percent of a core, and come at least this often."""

_CLOSING_SECONDS: Final = 0.1
_CLOSING_LOOKS: Final = 5
"""The kernel tells that a file is closed a moment before its writer counts as gone."""


class DirectoryFollower:
    """Turns a directory into a sequence of changes."""

    def __init__(
        self,
        root: Path,
        admission: Admission,
        on_changes: Callable[[DirectoryChanges], None],
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
        self._inodes = InodeNumbers(lambda path: Stamp.of(path.stat()))
        self._seen: dict[str, LoraFile] = {}
        """What the last scan found, by path."""
        self._scan_cost = 0.0
        """CPU seconds of the last scan."""
        self._closing: dict[str, int] = {}
        """Looks at files of which an event said that they are closed and that were not yet."""
        self.started = asyncio.Event()
        """Set when the directory has been listed once."""

    async def run(self) -> None:
        """Follow the directory until cancelled."""
        clock = asyncio.get_running_loop().time
        if self._watch is not None and not self._watch.start():
            self._watched = (0, 0)  # no root; the first one that is seen is tried again
        last_scan = clock() - _BURST_SECONDS
        next_scan = next_look = clock()
        try:
            while True:
                await self._box.wait(min(next_scan, next_look) - clock())
                if self._box.rescan:
                    next_scan = min(next_scan, last_scan + _BURST_SECONDS)
                if clock() >= next_scan:
                    await self._scan()
                    last_scan = clock()
                    next_scan = last_scan + self._pause()
                    next_look = last_scan + self._rescan_seconds
                    continue
                unsettled: frozenset[str] = frozenset()
                if clock() >= next_look:
                    unsettled = self._admission.unsettled
                    next_look = clock() + self._rescan_seconds
                await self._look(self._box.take_files(), unsettled)
        finally:
            if self._watch is not None:
                self._watch.stop()
            self._threads.shutdown(wait=False)

    def _pause(self) -> float:
        """Seconds until the next scan that no event asks for."""
        if self._watch is None or not self._watch.running or self._admission.misses:
            return self._rescan_seconds
        spared = min(_SCAN_SHARE * self._scan_cost, _LONGEST_SCAN_PAUSE)
        return max(spared, self._rescan_seconds)

    async def _scan(self) -> None:
        loop = asyncio.get_running_loop()
        # Taken before the scan: what an event says must not be older than what the scan sees.
        hints = self._box.take_all()
        try:
            seen, listing = await loop.run_in_executor(self._threads, self._list)
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
        began = time.thread_time()
        news = self._admission.news(seen.files.values())
        listing += time.thread_time() - began
        signs = await self._signs(news)
        self._look_again(signs, hints)
        began = time.thread_time()
        changes = self._admission.observe(
            seen, signs, hints, now=loop.time(), wall_ns=time.time_ns()
        )
        self._scan_cost = listing + time.thread_time() - began
        self._on_changes(changes)
        self.started.set()

    def _list(self) -> tuple[Scan, float]:
        """The directory, and the CPU seconds that listing it took."""
        began = time.thread_time()
        seen = self._inodes.settle(scan(self._root, self._seen), self._seen)
        self._seen = {found.relative: found for found in seen.files.values()}
        return seen, time.thread_time() - began

    async def _signs(self, news: list[LoraFile]) -> dict[str, Signs]:
        """By path."""
        if not news:
            return {}
        unclosed = None if self._watch is None else self._watch.unclosed
        return await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: {found.relative: signs_of(found, unclosed) for found in news}
        )

    def _follow_root(self, seen: Scan) -> None:
        """Watch the folder that is now at the root's path, not one that was moved away."""
        if self._watch is not None and self._watched not in (None, seen.root):
            self._watch.start()
        self._watched = seen.root

    async def _look(self, hints: Hints, unsettled: frozenset[str]) -> None:
        loop = asyncio.get_running_loop()
        paths = hints.arrived | hints.gone | unsettled
        if not paths:
            return
        seen = await loop.run_in_executor(self._threads, self._inspect, paths)
        found = [f for f in seen.values() if f is not None]
        if (
            not self._admission.started
            or self._full
            or any(map(self._admission.knows_elsewhere, found))
        ):
            self._box.folder(hints)
            return
        signs = await self._signs(self._admission.news(found))
        self._look_again(signs, hints)
        self._on_changes(self._admission.observe_hinted(seen, signs, hints, now=loop.time()))

    def _look_again(self, signs: Mapping[str, Signs], hints: Hints) -> None:
        """Soon, at files that an event says are closed and a sign says are not."""
        held = (path for path, sign in signs.items() if sign.reason and path in hints.arrived)
        self._closing = {path: self._closing.get(path, 0) + 1 for path in held}
        again = frozenset(path for path, looks in self._closing.items() if looks <= _CLOSING_LOOKS)
        if again:
            asyncio.get_running_loop().call_later(
                _CLOSING_SECONDS, self._box.file, Hints(arrived=again)
            )

    def _inspect(self, paths: frozenset[str]) -> dict[str, LoraFile | None]:
        seen: dict[str, LoraFile | None] = {}
        for path in paths:
            try:
                found = inspect(self._root, path)
                seen[path] = None if found is None else self._inodes.of(found)
            except OSError:
                log.debug("%s could not be looked at; the next scan will", path)
        return seen
