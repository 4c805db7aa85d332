"""Adapters as clients list and watch them: the present state, and every change with a revision.

The log of changes lets a client resume a watch from the last revision that it has seen.
"""

from __future__ import annotations

import asyncio
import difflib
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import Enum

from inference_server.adapters.records import Adapter, AdapterState
from inference_server.adapters.thumbnails import Thumbnails
from wuliart_contract.adapter_names import same_name

LOG_LENGTH = 1024
"""Changes kept for watchers that resume; one that is further behind gets a snapshot."""

NEAREST_CANDIDATES = 200
"""Names that are compared in the search for a similar one."""


class ChangeKind(Enum):
    """The kind of a change."""

    SNAPSHOT = "snapshot"
    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Change:
    """One change, or a snapshot of everything, and the revision after it."""

    kind: ChangeKind
    revision: int
    adapters: tuple[Adapter, ...]


class WatchedAdapters:
    """All adapters by name, with a log of their changes."""

    def __init__(self) -> None:
        self.thumbnails = Thumbnails()
        self.revision = 0
        self.watchers = 0
        """Open streams of changes."""
        self._adapters: Mapping[str, Adapter] = {}
        self._spellings: Mapping[str, str] = {}
        self._log: deque[Change] = deque(maxlen=LOG_LENGTH)
        self._changed = asyncio.Event()

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """All adapters, sorted by name."""
        return tuple(self._adapters[name] for name in sorted(self._adapters))

    def get(self, name: str) -> Adapter | None:
        """Returns the adapter of that name, None if there is none."""
        return self._adapters.get(name)

    def spelled(self, name: str) -> str:
        """Returns the adapter's name as its file spells it; `name` may be encoded differently."""
        return name if name in self._adapters else self._spellings.get(same_name(name), name)

    def nearest(self, name: str) -> str | None:
        """Returns the name of the usable adapter most similar to `name`, if one is close."""
        unusable = (AdapterState.REFUSED, AdapterState.WAITING)
        usable = [a.entry.name for a in self.adapters if a.state not in unusable]
        # A comparison takes 0.1 ms on the event loop. A typing error hardly changes the length.
        usable.sort(key=lambda candidate: abs(len(candidate) - len(name)))
        folded = {candidate.casefold(): candidate for candidate in usable[:NEAREST_CANDIDATES]}
        matches = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.4)
        return folded[matches[0]] if matches else None

    def show(self, fresh: Mapping[str, Adapter]) -> None:
        """Sets the present state, and logs how it differs from the one before."""
        for name in sorted(self._adapters.keys() | fresh.keys()):
            before, after = self._adapters.get(name), fresh.get(name)
            if before == after:
                continue
            if after is None:
                assert before is not None
                self._record(ChangeKind.REMOVED, before)
            elif after.state is AdapterState.REFUSED:
                self._record(ChangeKind.REFUSED, after)
            else:
                self._record(ChangeKind.UPDATED if before else ChangeKind.ADDED, after)
        self._adapters = fresh
        self._spellings = {same_name(name): name for name in fresh if not name.isascii()}

    async def watch(self, since: int | None) -> AsyncGenerator[Change, None]:
        """Yields a snapshot, then every change; with `since`, only changes after that revision.

        The revision is advanced before each yield, because the state may change during it.
        """
        self.watchers += 1
        try:
            if since is None:
                since = self.revision
                yield Change(ChangeKind.SNAPSHOT, since, self.adapters)
            while True:
                changed = self._changed
                if not self._remembers(since):
                    # A slow reader gets a snapshot, because it could not notice a gap.
                    since = self.revision
                    yield Change(ChangeKind.SNAPSHOT, since, self.adapters)
                    continue
                for change in [c for c in self._log if c.revision > since]:
                    since = change.revision
                    yield change
                if since == self.revision:
                    await changed.wait()
        finally:
            self.watchers -= 1

    def _remembers(self, revision: int) -> bool:
        oldest = self._log[0].revision if self._log else self.revision + 1
        return oldest - 1 <= revision <= self.revision

    def _record(self, kind: ChangeKind, adapter: Adapter) -> None:
        self.revision += 1
        self._log.append(Change(kind, self.revision, (adapter,)))
        # Each waiting watch holds the event it waits on; later ones wait on the new event.
        self._changed.set()
        self._changed = asyncio.Event()
