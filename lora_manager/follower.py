"""Decides when to look at the directory: a full scan now and then, and at once after an event.

What a look means is decided in admission.py. The file system is touched in a thread only, so the
event loop never blocks.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from lora_manager.admission import Admission, DirectoryChanges
from lora_manager.directory import Scan, are_folders_unchanged, inspect, scan
from lora_manager.hints import HintBox, Hints
from lora_manager.inodes import InodeNumbers
from lora_manager.lora_file import LoraFile, Stamp
from lora_manager.unfinished import Signs, signs_of
from lora_manager.watch import DirectoryWatch
from wuliart_contract.limits import MAX_LISTED_ADAPTERS

log = logging.getLogger(__name__)

_T = TypeVar("_T")

_BURST_SECONDS: Final = 0.1
"""Least time between two full scans that events call for."""

_SCAN_SHARE: Final = 200
_LONGEST_SCAN_PAUSE: Final = 30.0
"""Full scans take no more than half a percent of a core, but come at least this often (seconds).

Events tell of changes meanwhile. Without them (--poll), the folders' own mtimes do, every
`rescan_seconds` and for no more than the same share: they change with every file that is added,
renamed or removed. Only a file that is rewritten in place has to wait for the next full scan."""

_CLOSING_SECONDS: Final = 0.1
_CLOSING_LOOKS: Final = 5
"""The close event comes a moment before the kernel grants a lease."""


class DirectoryFollower:
    """Turns a directory into a sequence of changes.

    Args:
        root: the directory.
        admission: decides what a look means.
        on_changes: called after each look.
        on_preview: called after an event of an image, which is no change of an adapter.
        rescan_seconds: time between two looks, see `_LONGEST_SCAN_PAUSE`.
        poll: True for no events.
    """

    def __init__(
        self,
        root: Path,
        admission: Admission,
        on_changes: Callable[[DirectoryChanges], None],
        on_preview: Callable[[], None],
        *,
        rescan_seconds: float,
        poll: bool,
    ) -> None:
        self._root = root
        self._admission = admission
        self._on_changes = on_changes
        self._rescan_seconds = rescan_seconds
        self._box = HintBox()
        self._watch = None if poll else DirectoryWatch(root, self._box, on_preview)
        self._watched: tuple[int, int] | None = None
        self._threads = ThreadPoolExecutor(1, "scanner")
        self._unreadable = False
        self._full = False
        self._inodes = InodeNumbers(lambda path: Stamp.of(path.stat()))
        self._seen: dict[str, LoraFile] = {}
        """The files of the last scan, by path."""
        self._folders: Mapping[str, int] = {}
        """The folders of the last scan, see `Scan.folders`."""
        self._scan_cost = 0.0
        """CPU seconds of the last scan."""
        self._closing: dict[str, int] = {}
        """Looks at files that are still open although an event said that they are closed."""
        self.started = asyncio.Event()
        """Set when the directory has been listed once."""

    async def run(self) -> None:
        """Follows the directory until cancelled."""
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
                    cost = 0.0
                    if not self._has_events:
                        unchanged, cost = await self._in_thread(self._compare_folders)
                        if not unchanged:
                            next_scan = clock()
                            continue
                    next_look = clock() + max(self._rescan_seconds, _SCAN_SHARE * cost)
                await self._look(self._box.take_files(), unsettled)
        finally:
            if self._watch is not None:
                self._watch.stop()
            self._threads.shutdown(wait=False)

    def _pause(self) -> float:
        """Seconds until the next scan that no event calls for."""
        if self._admission.misses:
            return self._rescan_seconds
        spared = min(_SCAN_SHARE * self._scan_cost, _LONGEST_SCAN_PAUSE)
        return max(spared, self._rescan_seconds)

    @property
    def _has_events(self) -> bool:
        return self._watch is not None and self._watch.running

    async def _in_thread(self, work: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    async def _scan(self) -> None:
        loop = asyncio.get_running_loop()
        # Taken before the scan: a hint must not be older than what the scan sees.
        hints = self._box.take_all()
        try:
            seen, listing = await self._in_thread(self._list)
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
                "%s has %d adapter files or more; those after these in the order of folders "
                "and names are not listed: remove some", self._root, MAX_LISTED_ADAPTERS,
            )  # fmt: skip
        self._full = seen.full
        began = time.thread_time()
        changed = self._admission.changed(seen.files.values())
        listing += time.thread_time() - began
        signs = await self._signs(changed)
        self._look_again(signs, hints)
        began = time.thread_time()
        changes = self._admission.observe(
            seen, signs, hints, now=loop.time(), wall_ns=time.time_ns()
        )
        self._scan_cost = listing + time.thread_time() - began
        self._on_changes(changes)
        self.started.set()

    def _list(self) -> tuple[Scan, float]:
        """Returns the directory, and the CPU seconds that listing it took."""
        began = time.thread_time()
        seen = self._inodes.settle(scan(self._root, self._seen), self._seen)
        self._seen = {found.relative: found for found in seen.files.values()}
        self._folders = seen.folders
        return seen, time.thread_time() - began

    def _compare_folders(self) -> tuple[bool, float]:
        """Returns whether the folders are as they were, and the CPU seconds that this took."""
        began = time.thread_time()
        return are_folders_unchanged(self._folders), time.thread_time() - began

    async def _signs(self, changed: list[LoraFile]) -> dict[str, Signs]:
        """Returns the signs of each file, by path."""
        if not changed:
            return {}
        unclosed = None if self._watch is None else self._watch.unclosed
        return await self._in_thread(
            lambda: {found.relative: signs_of(found, unclosed) for found in changed}
        )

    def _follow_root(self, seen: Scan) -> None:
        """Watches the folder that is now at the root's path, not one that was moved away."""
        if self._watch is not None and self._watched not in (None, seen.root):
            self._watch.start()
        self._watched = seen.root

    async def _look(self, hints: Hints, unsettled: frozenset[str]) -> None:
        loop = asyncio.get_running_loop()
        paths = hints.arrived | hints.gone | unsettled
        if not paths:
            return
        seen = await self._in_thread(lambda: self._inspect(paths))
        found = [f for f in seen.values() if f is not None]
        if (
            not self._admission.started
            or self._full
            or any(map(self._admission.knows_elsewhere, found))
        ):
            self._box.folder(hints)
            return
        signs = await self._signs(self._admission.changed(found))
        self._look_again(signs, hints)
        self._on_changes(self._admission.observe_hinted(seen, signs, hints, now=loop.time()))

    def _look_again(self, signs: Mapping[str, Signs], hints: Hints) -> None:
        """Schedules another look at files that an event says are closed and a sign says are not."""
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
