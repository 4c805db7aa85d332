"""The styles of all replicas as one list: what clients list and watch.

Owns the merge; knows nothing of Ray, nor of how replicas tell what they hold.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping

from inference_server.adapters.changes import Changes
from inference_server.adapters.records import Adapter, AdapterState


class Fleet(Changes):
    """One catalogue over the catalogues of many replicas, which watch one folder.

    What is listed can be drawn by whichever replica is asked: a new file appears here once all
    replicas know it, a new version once all have seen it, and a name is gone once none knows it. A
    style is resident if it is in the memory of any.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = secrets.token_hex(16)
        """As of a server's life: resume tokens of an earlier front mean nothing to this one."""
        self._replicas: dict[str, Mapping[str, Adapter]] = {}

    @property
    def replicas(self) -> Collection[str]:
        """Those whose styles count."""
        return self._replicas.keys()

    def report(self, replica: str, adapters: Iterable[Adapter]) -> None:
        """Everything that a replica knows, in place of what it knew."""
        self._replicas[replica] = {a.entry.name: a for a in adapters}
        self._merge()

    def keep_only(self, replicas: Iterable[str]) -> None:
        """All others are gone."""
        gone = self._replicas.keys() - set(replicas)
        for replica in gone:
            del self._replicas[replica]
        if gone:
            self._merge()

    def _merge(self) -> None:
        names = {name for adapters in self._replicas.values() for name in adapters}
        merged = {name: self._one(name) for name in names}
        self.show({name: adapter for name, adapter in merged.items() if adapter is not None})

    def _one(self, name: str) -> Adapter | None:
        """The style as all replicas have it, or as it was while they do not agree."""
        found = [some[name] for _, some in sorted(self._replicas.items()) if name in some]
        shown = self.get(name)
        if shown is None and len(found) < len(self._replicas):
            return None
        versions = {adapter.entry.content_hash for adapter in found}
        if len(versions) > 1:
            before = shown.entry.content_hash if shown is not None else ""
            kept = before if before in versions else min(versions)
            found = [a for a in found if a.entry.content_hash == kept]
        return min(found, key=lambda adapter: _ORDER.index(adapter.state))


_ORDER = (
    AdapterState.RESIDENT,
    AdapterState.AVAILABLE,
    AdapterState.REFUSED,
    AdapterState.WAITING,
)
