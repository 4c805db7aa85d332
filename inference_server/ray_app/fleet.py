"""The styles of all replicas as one list: what clients list and watch.

Owns the merge; knows nothing of Ray, nor of how replicas tell what they hold.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Mapping
from dataclasses import replace

from inference_server.adapters.changes import Changes
from inference_server.adapters.records import Adapter, AdapterState


class Fleet(Changes):
    """One catalogue over the catalogues of many replicas.

    A style is resident if it is in any replica, available if any can load it, refused if all that
    know it refuse it. Replicas watch one folder, so they differ only for moments; which slot of
    which replica holds a style is nobody's business here.
    """

    def __init__(self) -> None:
        super().__init__()
        self.epoch = secrets.token_hex(16)
        """As of a server's life: resume tokens of an earlier front mean nothing to this one."""
        self._replicas: dict[str, Mapping[str, Adapter]] = {}

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
        found: dict[str, Adapter] = {}
        for adapters in self._replicas.values():
            for name, adapter in adapters.items():
                if name not in found or _rank(adapter) < _rank(found[name]):
                    found[name] = adapter
        self.show({name: replace(a, slot=None, generation=0) for name, a in found.items()})


_ORDER = (AdapterState.RESIDENT, AdapterState.AVAILABLE, AdapterState.REFUSED)


def _rank(adapter: Adapter) -> tuple[int, str]:
    # Of two versions the same one each time: a picture shows which it was drawn with.
    return _ORDER.index(adapter.state), adapter.entry.content_hash
