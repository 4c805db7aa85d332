"""What the world is told of adapters: the present state, and every change with a revision.

Owns the log of changes that watchers resume from, and their waking up. Knows nothing of where the
present state comes from.
"""

from __future__ import annotations

import asyncio
import difflib
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass
from enum import Enum

from inference_server.adapters.records import Adapter, AdapterState
from wuliart_contract.adapter_names import same_name

LOG_LENGTH = 1024
"""Changes kept for watchers that resume; one that fell further behind gets a snapshot."""


NEAREST_CANDIDATES = 200


class ChangeKind(Enum):
    """What happened to an adapter."""

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
    """All adapters by name, and what became of them."""

    def __init__(self) -> None:
        self.revision = 0
        self.watchers = 0
        """Streams of changes that are open now."""
        self._adapters: Mapping[str, Adapter] = {}
        self._spellings: Mapping[str, str] = {}
        self._log: deque[Change] = deque(maxlen=LOG_LENGTH)
        self._changed = asyncio.Event()

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """Everything there is, sorted by name."""
        return tuple(self._adapters[name] for name in sorted(self._adapters))

    def get(self, name: str) -> Adapter | None:
        """One adapter."""
        return self._adapters.get(name)

    def spelled(self, name: str) -> str:
        """The adapter's name as its file has it; `name` may have its letters encoded otherwise."""
        return name if name in self._adapters else self._spellings.get(same_name(name), name)

    def nearest(self, name: str) -> str | None:
        """The usable adapter whose name is most like `name`, if any comes close."""
        unusable = (AdapterState.REFUSED, AdapterState.WAITING)
        usable = [a.entry.name for a in self.adapters if a.state not in unusable]
        # Comparing takes 0.1 ms a name, on the event loop; a slip hardly changes the length.
        usable.sort(key=lambda candidate: abs(len(candidate) - len(name)))
        folded = {candidate.casefold(): candidate for candidate in usable[:NEAREST_CANDIDATES]}
        matches = difflib.get_close_matches(name.casefold(), folded, n=1, cutoff=0.4)
        return folded[matches[0]] if matches else None

    def show(self, fresh: Mapping[str, Adapter]) -> None:
        """The present state from now on; logs how it differs from the one before."""
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
        """A snapshot, then every change; with `since`, only what came after that revision.

        What a reader has seen is noted before it is yielded: the state may change meanwhile.
        """
        self.watchers += 1
        try:
            if since is None:
                since = self.revision
                yield Change(ChangeKind.SNAPSHOT, since, self.adapters)
            while True:
                changed = self._changed
                if not self._remembers(since):
                    # A slow reader: rather everything at once than a gap it cannot notice.
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
        # Each waiter holds the event it waits on; a fresh one serves those who come later.
        self._changed.set()
        self._changed = asyncio.Event()
