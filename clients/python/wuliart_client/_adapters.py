"""Adapters and their changes as frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from wuliart.v1 import adapter_pb2 as pb
from wuliart_client._exceptions import ProtocolError


class AdapterState(StrEnum):
    """The usability of an adapter."""

    UNKNOWN = "unknown"
    """A state of a newer server."""
    RESIDENT = "resident"
    """In the server's memory, ready for use."""
    AVAILABLE = "available"
    """Usable; loaded when a request names it."""
    REFUSED = "refused"
    """Not usable; `refusal_reason` says why."""
    WAITING = "waiting"
    """Not usable yet: its file is not finished; `waiting_reason` says why."""


_STATES: Final = {
    pb.ADAPTER_STATE_RESIDENT: AdapterState.RESIDENT,
    pb.ADAPTER_STATE_AVAILABLE: AdapterState.AVAILABLE,
    pb.ADAPTER_STATE_REFUSED: AdapterState.REFUSED,
    pb.ADAPTER_STATE_WAITING: AdapterState.WAITING,
}


@dataclass(frozen=True, slots=True)
class Adapter:
    """One LoRA file.

    `rank` is its largest, 0 if it has no low-rank factors (as a LoKr) or was refused before that
    was known; `content_hash` is SHA-256 in 64 hexadecimal digits, empty if the file could not be
    read; `generation` is 0, `resident_since` and `slot` are None unless `state` is RESIDENT. A
    `pinned` one, once resident, makes no room for others. `waiting_reason` says why the file's
    content of now is not used yet, and is empty if nothing is waited for; unless `state` is
    WAITING, the content before it stays in use. `notes` say what the file holds and the adapter
    does not. `thumbnail_hash` is SHA-256 of what `Client.thumbnail` returns, empty if there is
    none.
    """

    name: str
    title: str
    trigger_words: tuple[str, ...]
    rank: int
    size_bytes: int
    content_hash: str
    state: AdapterState
    refusal_reason: str
    generation: int
    resident_since: datetime | None
    slot: int | None = None
    pinned: bool = False
    waiting_reason: str = ""
    notes: tuple[str, ...] = ()
    thumbnail_hash: str = ""

    @property
    def usable(self) -> bool:
        """True if a request may name the adapter."""
        return self.state in (AdapterState.RESIDENT, AdapterState.AVAILABLE)


class AdapterEventKind(StrEnum):
    """The kind of an `AdapterEvent`."""

    SNAPSHOT = "snapshot"
    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class AdapterEvent:
    """A snapshot or one change.

    `adapters` are all there are for a SNAPSHOT, else the one that changed. `resume_token` given
    to `watch` goes on after this event.
    """

    kind: AdapterEventKind
    adapters: tuple[Adapter, ...]
    revision: int
    resume_token: str

    @property
    def adapter(self) -> Adapter | None:
        """The one that changed; None for a SNAPSHOT."""
        return None if self.kind is AdapterEventKind.SNAPSHOT else self.adapters[0]


def read_adapter(adapter: pb.Adapter) -> Adapter:
    """Returns the value of a message."""
    since = adapter.resident_since.ToDatetime(UTC) if adapter.HasField("resident_since") else None
    return Adapter(
        name=adapter.name,
        title=adapter.title,
        trigger_words=tuple(adapter.trigger_words),
        rank=adapter.rank,
        size_bytes=adapter.size_bytes,
        content_hash=adapter.content_hash,
        state=_STATES.get(adapter.state, AdapterState.UNKNOWN),
        refusal_reason=adapter.refusal_reason,
        generation=adapter.generation,
        resident_since=since,
        slot=adapter.slot if adapter.HasField("slot") else None,
        pinned=adapter.pinned,
        waiting_reason=adapter.waiting_reason,
        notes=tuple(adapter.notes),
        thumbnail_hash=adapter.thumbnail_hash,
    )


class ListReader:
    """Joins the pages of one list.

    `request` asks for the next page, and is None once `adapters` are all of them.
    """

    def __init__(self) -> None:
        self.adapters: list[Adapter] = []
        self.request: pb.ListAdaptersRequest | None = pb.ListAdaptersRequest()
        self._tokens: set[str] = set()

    def read(self, response: pb.ListAdaptersResponse) -> None:
        """Takes a page; ProtocolError if the next one has been read before."""
        self.adapters += map(read_adapter, response.adapters)
        if not (token := response.next_page_token):
            self.request = None
            return
        if token in self._tokens:
            raise ProtocolError("the server's list of adapters does not end: it repeats a page")
        self._tokens.add(token)
        self.request = pb.ListAdaptersRequest(page_token=token)


class WatchReader:
    """Reads the responses of one WatchAdapters call."""

    def __init__(self) -> None:
        self._parts: list[Adapter] = []

    def read(self, response: pb.WatchAdaptersResponse) -> AdapterEvent | None:
        """The event that a response completes, None for a snapshot's part that is not its last.

        Raises:
            ProtocolError: the event is not known, or comes in the middle of a snapshot.
        """
        kind = response.WhichOneof("event")
        if kind is None:
            raise ProtocolError("the server sent an event unknown to this client: update it")
        if kind == "snapshot":
            self._parts += map(read_adapter, response.snapshot.adapters)
            if response.snapshot.more:
                return None
            adapters, self._parts = tuple(self._parts), []
        elif self._parts:
            raise ProtocolError(f"the server sent {kind!r} in the middle of a snapshot")
        else:
            adapters = (read_adapter(getattr(response, kind)),)
        return AdapterEvent(
            AdapterEventKind(kind), adapters, response.revision, response.resume_token
        )

    def end(self) -> None:
        """A watch may end at any time: the server is going."""
