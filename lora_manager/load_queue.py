"""Decides which file is loaded next."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import time
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum


class Urgency(IntEnum):
    """Why a file is to be loaded; smaller goes first."""

    PROMOTE = 0
    """An image waits for it."""
    CHANGE = 1
    """It was added or changed; the newest change first."""
    REPLAY = 2
    """It was there before the session; the newest file first."""


@dataclass(frozen=True, slots=True)
class QueuedLoad:
    """Load the file of one name."""

    name: str
    urgency: Urgency
    order: int
    """Among loads of one urgency the smallest goes first."""
    replaces: tuple[str, ...] = ()
    """Names that the file had until now; they go when the new name is there."""
    noticed: float | None = None
    """`time.monotonic()` of the last change, if one is why."""


class LoadQueue:
    """The files that wait to be loaded, at most one entry per name."""

    def __init__(self) -> None:
        self._loads: dict[str, QueuedLoad] = {}
        self._heap: list[tuple[Urgency, int, str]] = []
        """Waiting loads, and stale entries of loads that were dropped or became more urgent."""
        self._urgencies: Counter[Urgency] = Counter()
        self._count = itertools.count()
        self._filled = asyncio.Event()

    def promote(self, name: str) -> None:
        """Queues a file that an image waits for."""
        self._put(QueuedLoad(name, Urgency.PROMOTE, next(self._count)))

    def change(self, name: str, replaces: tuple[str, ...] = ()) -> None:
        """Queues a file that is new or has changed."""
        order = -next(self._count)
        self._put(QueuedLoad(name, Urgency.CHANGE, order, replaces, time.monotonic()))

    def replay(self, name: str, mtime_ns: int) -> None:
        """Queues a file that was there before the session; does nothing if it waits already."""
        if name not in self._loads:
            self._put(QueuedLoad(name, Urgency.REPLAY, -mtime_ns))

    def put_back(self, load: QueuedLoad) -> None:
        """Queues a load again that could not be completed."""
        self._put(load)

    def pop(self) -> QueuedLoad | None:
        """Removes and returns the next load, None if none waits."""
        while self._heap:
            urgency, order, name = heapq.heappop(self._heap)
            load = self._loads.get(name)
            if load is not None and (load.urgency, load.order) == (urgency, order):
                return self._drop(name)
        self._filled.clear()
        return None

    def discard(self, name: str) -> tuple[str, ...]:
        """Removes the load of that name; returns the names it would have replaced."""
        load = self._drop(name)
        return load.replaces if load is not None else ()

    def has(self, urgency: Urgency) -> bool:
        """Returns True if a load of that urgency waits."""
        return self._urgencies[urgency] > 0

    def replaced(self) -> frozenset[str]:
        """All names that waiting loads replace."""
        return frozenset(name for load in self._loads.values() for name in load.replaces)

    async def wait(self) -> None:
        """Waits until a load is queued."""
        await self._filled.wait()

    def _put(self, load: QueuedLoad) -> None:
        waiting = self._drop(load.name)
        if waiting is not None:
            first = min(load, waiting, key=lambda load: (load.urgency, load.order))
            replaces = tuple(dict.fromkeys(waiting.replaces + load.replaces))
            noticed = waiting.noticed if load.noticed is None else load.noticed
            load = QueuedLoad(load.name, first.urgency, first.order, replaces, noticed)
        self._loads[load.name] = load
        self._urgencies[load.urgency] += 1
        heapq.heappush(self._heap, (load.urgency, load.order, load.name))
        self._filled.set()

    def _drop(self, name: str) -> QueuedLoad | None:
        load = self._loads.pop(name, None)
        if load is not None:
            self._urgencies[load.urgency] -= 1
        return load
