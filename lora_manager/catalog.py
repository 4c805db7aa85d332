"""The catalog that the manager reports: one entry per adapter name.

Which adapters are resident is known to the server alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from lora_manager.lora_file import LoraFile
from wuliart.internal.v1 import segment_pb2


@dataclass(frozen=True, slots=True)
class Entry:
    """One file, as judged against one layout."""

    found: LoraFile
    """The file's state that this judgement is of."""
    content_hash: str = ""
    """SHA-256 of the file and of adapter_config.json behind it, if it has one: 64 hexadecimal
    digits; empty if the file was not read whole or judging it failed."""
    title: str = ""
    trigger_words: tuple[str, ...] = ()
    rank: int = 0
    refusal: str = ""
    """Why it cannot be used; empty if it can."""
    autov3: str = ""
    """SHA-256 of the file behind its header, first 12 hexadecimal digits; empty as above."""
    notes: tuple[str, ...] = ()
    """What the file holds and the adapter does not, as sentences for users."""

    @property
    def name(self) -> str:
        """The adapter's name."""
        return self.found.name

    def is_reported_as(self, other: Entry | None) -> bool:
        """Returns True if `other`, the entry reported last, is the same message."""
        return other is not None and self.to_pb() == other.to_pb()

    def to_pb(self) -> segment_pb2.CatalogEntry:
        """Returns the entry as a message."""
        return segment_pb2.CatalogEntry(
            name=self.name,
            title=self.title or self.name,
            trigger_words=self.trigger_words,
            rank=self.rank,
            size_bytes=self.found.stamp.size,
            content_hash=self.content_hash,
            refusal_reason=self.refusal,
            autov3_hash=self.autov3,
            notes=self.notes,
        )


class FileCatalog:
    """All entries by name."""

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}

    def get(self, name: str) -> Entry | None:
        """The entry of that name."""
        return self._entries.get(name)

    def names(self) -> frozenset[str]:
        """All names."""
        return frozenset(self._entries)

    def put(self, entry: Entry) -> bool:
        """Sets the entry of its name; returns True if it differs from the one before."""
        differs = not entry.is_reported_as(self._entries.get(entry.name))
        self._entries[entry.name] = entry
        return differs

    def remove(self, name: str) -> Entry | None:
        """Removes and returns the entry of that name."""
        return self._entries.pop(name, None)

    def clear(self) -> None:
        """Removes all entries: the layout that they were judged against is gone."""
        self._entries.clear()

    def to_pb(self) -> list[segment_pb2.CatalogEntry]:
        """Returns all entries as messages, sorted by name."""
        return [self._entries[name].to_pb() for name in sorted(self._entries)]
