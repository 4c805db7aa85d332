"""Which file to load next. Owns the order; knows nothing of how loading is done."""

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
    """Among jobs of one urgency the smallest goes first."""
    replaces: tuple[str, ...] = ()
    """Names that the file had until now; they go when the new name is there."""
    noticed: float | None = None
    """`time.monotonic()` of the last change, if one is why."""


class LoadQueue:
    """At most one waiting job per name."""

    def __init__(self) -> None:
        self._jobs: dict[str, QueuedLoad] = {}
        self._heap: list[tuple[Urgency, int, str]] = []
        """Of waiting jobs, and of some that were dropped or have become more urgent."""
        self._urgencies: Counter[Urgency] = Counter()
        self._count = itertools.count()
        self._filled = asyncio.Event()

    def promote(self, name: str) -> None:
        """An image waits for that name."""
        self._put(QueuedLoad(name, Urgency.PROMOTE, next(self._count)))

    def change(self, name: str, replaces: tuple[str, ...] = ()) -> None:
        """The file of that name is new, or another than before."""
        order = -next(self._count)
        self._put(QueuedLoad(name, Urgency.CHANGE, order, replaces, time.monotonic()))

    def replay(self, name: str, mtime_ns: int) -> None:
        """The file of that name is there; does nothing if a job for it waits already."""
        if name not in self._jobs:
            self._put(QueuedLoad(name, Urgency.REPLAY, -mtime_ns))

    def put_back(self, job: QueuedLoad) -> None:
        """A job that was taken could not be done."""
        self._put(job)

    def pop(self) -> QueuedLoad | None:
        """Take the next job."""
        while self._heap:
            urgency, order, name = heapq.heappop(self._heap)
            job = self._jobs.get(name)
            if job is not None and (job.urgency, job.order) == (urgency, order):
                return self._drop(name)
        self._filled.clear()
        return None

    def discard(self, name: str) -> tuple[str, ...]:
        """Drop the job of that name; returns the names it would have replaced."""
        job = self._drop(name)
        return job.replaces if job is not None else ()

    def has(self, urgency: Urgency) -> bool:
        """Returns True if a job of that urgency waits."""
        return self._urgencies[urgency] > 0

    def replaced(self) -> frozenset[str]:
        """All names that waiting jobs replace."""
        return frozenset(name for job in self._jobs.values() for name in job.replaces)

    async def wait(self) -> None:
        """Return when a job waits."""
        await self._filled.wait()

    def _put(self, job: QueuedLoad) -> None:
        waiting = self._drop(job.name)
        if waiting is not None:
            first = min(job, waiting, key=lambda job: (job.urgency, job.order))
            replaces = tuple(dict.fromkeys(waiting.replaces + job.replaces))
            noticed = waiting.noticed if job.noticed is None else job.noticed
            job = QueuedLoad(job.name, first.urgency, first.order, replaces, noticed)
        self._jobs[job.name] = job
        self._urgencies[job.urgency] += 1
        heapq.heappush(self._heap, (job.urgency, job.order, job.name))
        self._filled.set()

    def _drop(self, name: str) -> QueuedLoad | None:
        job = self._jobs.pop(name, None)
        if job is not None:
            self._urgencies[job.urgency] -= 1
        return job
