"""The catalog of a fleet: the adapters of all replicas, merged into one list."""

from __future__ import annotations

import secrets
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace

from inference_server.adapters.changes import WatchedAdapters
from inference_server.adapters.records import Adapter, AdapterState


class FleetCatalog(WatchedAdapters):
    """One catalog over those of many replicas, which all watch the same folder.

    Every replica can use every adapter that is listed: a new file is listed once all replicas have
    reported it, a new version once all have reported that, and a name is removed once no replica
    reports it. An adapter is resident if any replica has it in memory.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = secrets.token_hex(16)
        """Distinguishes this front's resume tokens from those of an earlier one."""
        self._replicas: dict[str, Mapping[str, Adapter]] = {}

    @property
    def replicas(self) -> Collection[str]:
        """Names of the replicas whose adapters are merged."""
        return self._replicas.keys()

    def report(self, replica: str, adapters: Iterable[Adapter]) -> None:
        """Replaces the adapters of one replica."""
        self._replicas[replica] = {a.entry.name: a for a in adapters}
        self._merge()

    def put_thumbnails(self, jpegs: Iterable[bytes]) -> None:
        """Keeps thumbnails that are missing."""
        self.thumbnails.put(jpegs)
        self._merge()

    def keep_only(self, replicas: Iterable[str]) -> None:
        """Removes all other replicas."""
        gone = self._replicas.keys() - set(replicas)
        for replica in gone:
            del self._replicas[replica]
        if gone:
            self._merge()

    def _merge(self) -> None:
        names = {name for adapters in self._replicas.values() for name in adapters}
        merged = {name: found for name in names if (found := self._one(name)) is not None}
        self.thumbnails.report(
            {name: a.thumbnail_hash for name, a in merged.items() if a.thumbnail_hash}
        )
        self.show(
            {
                name: replace(adapter, thumbnail_hash=self.thumbnails.hash_of(name))
                for name, adapter in merged.items()
            }
        )

    def _one(self, name: str) -> Adapter | None:
        """Returns the version that all replicas have; while they differ, the one listed before."""
        found = [listed[name] for _, listed in sorted(self._replicas.items()) if name in listed]
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
