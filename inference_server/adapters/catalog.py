"""The adapters of this server: the manager's report, merged with what is resident."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable

from inference_server.adapters.changes import WatchedAdapters
from inference_server.adapters.records import Adapter, AdapterState, FileEntry, Resident
from wuliart_contract.adapter_names import same_name


class Catalog(WatchedAdapters):
    """All adapters by name.

    Args:
        resident: returns what is published under a name; called at every `refresh`.
        pinned: names that are listed as pinned.
    """

    def __init__(
        self, resident: Callable[[str], Resident | None], pinned: Collection[str] = ()
    ) -> None:
        super().__init__()
        self._resident = resident
        self._pinned = frozenset(map(same_name, pinned))
        self._entries: dict[str, FileEntry] = {}

    def replace(self, entries: Iterable[FileEntry]) -> None:
        """Replaces all entries by those of the manager's report."""
        self._entries = {entry.name: entry for entry in entries}
        self.refresh()

    def put(self, entry: FileEntry) -> None:
        """Sets one entry, ahead of the manager's next report."""
        self._entries[entry.name] = entry
        self.refresh()

    def refresh(self) -> None:
        """Recomputes every adapter's public state and logs what changed."""
        self.show({name: self._public(entry) for name, entry in self._entries.items()})

    def _public(self, entry: FileEntry) -> Adapter:
        pinned = same_name(entry.name) in self._pinned
        thumbnail = self.thumbnails.hash_of(entry.name)

        def unused(state: AdapterState) -> Adapter:
            return Adapter(entry, state, pinned=pinned, thumbnail_hash=thumbnail)

        if entry.refusal_reason:
            return unused(AdapterState.REFUSED)
        if entry.waiting_reason and not entry.is_judged:
            return unused(AdapterState.WAITING)
        resident = self._resident(entry.name)
        if resident is None or resident.entry.content_hash != entry.content_hash:
            return unused(AdapterState.AVAILABLE)
        return Adapter(
            entry,
            AdapterState.RESIDENT,
            resident.generation,
            resident.since,
            resident.slot,
            pinned,
            thumbnail,
        )
