"""The server's adapters: slots, segment and catalog, changed together.

The LoRA manager's session fills slots and reports files; the binder pins what is published. All
methods run on the event loop; `verification` computes checksums and copies in a worker thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from inference_server.adapters.catalog import Catalog
from inference_server.adapters.metrics import AdapterMetrics, Count, Duration
from inference_server.adapters.records import AdapterState, FileEntry, Resident
from inference_server.adapters.reports import merge_report
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.slot_state import Slot
from inference_server.adapters.slots import SlotTable
from inference_server.adapters.verification import SlotVerifier
from inference_server.errors import RequestError
from wuliart_contract.adapter_names import same_name
from wuliart_contract.status import Reason
from wuliart_lora.slot_layout import NO_PRODUCTS, KroneckerShapes

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""Writing a slot takes milliseconds; a writer that takes longer is stopped or stuck."""


@dataclass(eq=False)
class Session:
    """One attached manager."""

    id: str
    promotions: asyncio.Queue[str] = field(default_factory=asyncio.Queue)


class AdapterStore:
    """All adapters of the server.

    Args:
        segment: the slots' memory.
        resident_limit: adapters that may be resident at once; the segment has one slot more.
        pinned: names of adapters that are never evicted for another name.
    """

    def __init__(
        self, segment: AdapterSegment, resident_limit: int, pinned: Collection[str] = ()
    ) -> None:
        self.segment = segment
        self.metrics = AdapterMetrics()
        self.pinned = frozenset(map(same_name, pinned))
        self.epoch = secrets.token_hex(16)
        """Random per server process; to a manager, a new epoch means that every slot is empty."""
        self.slots = SlotTable(
            resident_limit + 1,
            resident_limit=resident_limit,
            lease_seconds=LEASE_SECONDS,
            clock=time.monotonic,
            zero=segment.zero,
            metrics=self.metrics,
            kept=self.pinned,
        )
        self.verifier = SlotVerifier(segment, self.metrics)
        self.catalog = Catalog(self.slots.published, self.pinned)
        self.reported = False
        """True once a manager has reported the directory."""
        self.pending: frozenset[str] = frozenset()
        """Names of files that the manager has found and not read yet."""
        self._session: Session | None = None
        self._changed = asyncio.Event()

    @property
    def manager_attached(self) -> bool:
        """True while a LoRA manager's session is open."""
        return self._session is not None

    @property
    def session_id(self) -> str:
        """The manager's session; empty without one."""
        return "" if self._session is None else self._session.id

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of an adapter. Each change replaces the event by a new one."""
        return self._changed

    def attach(self) -> Session:
        """Opens the session; there is one at a time.

        Raises:
            RequestError: MANAGER_ALREADY_ATTACHED.
        """
        if self._session is not None:
            raise RequestError(
                Reason.MANAGER_ALREADY_ATTACHED,
                "another LoRA manager is attached to this server; stop it first",
            )
        self._session = Session(secrets.token_hex(16))
        self.notify()
        return self._session

    def detach(self, session: Session) -> None:
        """Ends a session whose stream has ended; resident adapters stay in use."""
        self.slots.close_session(session.id)
        if self._session is session:
            self._session = None
        self.notify()

    def writer_is_gone(self, session_id: str) -> None:
        """Ends a session whose process can no longer write to the segment."""
        self.slots.writer_is_gone(session_id)
        if self._session is not None and self._session.id == session_id:
            # A request of the session may still arrive, and what it reserved would never be freed.
            self._session = None
        self.notify()

    def reserve(self, session_id: str, request_id: str, name: str, *, evict: bool) -> Slot:
        """Reserves a slot; see `SlotTable.reserve`."""
        self._check(session_id)
        self.expire()
        slot = self.slots.reserve(session_id, request_id, name, evict=evict)
        self.catalog.refresh()
        return slot

    async def commit(
        self,
        session_id: str,
        index: int,
        generation: int,
        *,
        checksum: bytes,
        written_bytes: int,
        entry: FileEntry,
        packed_rank: int,
        sites: Sequence[str],
        kronecker: KroneckerShapes = NO_PRODUCTS,
        copy_seconds: float | None = None,
        seconds_since_noticed: float | None = None,
    ) -> None:
        """Verifies a slot that was written, and publishes it.

        Args:
            session_id: of the writer.
            index: of the slot.
            generation: of its reservation.
            checksum: XXH3-128 of its first `written_bytes` bytes.
            written_bytes: bytes that the checksum covers.
            entry: the file it was written from.
            packed_rank: rank that its low-rank sites are packed for.
            sites: the sites that the adapter acts on.
            kronecker: the modules that it acts on by Kronecker products.
            copy_seconds: time that writing took, None if unknown.
            seconds_since_noticed: since the manager noticed the change; None for other loads.

        Raises:
            RequestError: SESSION_LOST, RESERVATION_LOST, CHECKSUM_MISMATCH or INVALID_REQUEST.
        """
        self._check(session_id)
        self.expire()
        slot = self.slots.begin_verify(session_id, index, generation)
        if slot is None:
            return
        began = time.monotonic()
        try:
            if entry.name != slot.name:
                raise RequestError(Reason.INVALID_REQUEST, "the commit does not fit its slot")
            tensors = await self.verifier.verify(
                index,
                checksum=checksum,
                written_bytes=written_bytes,
                packed_rank=packed_rank,
                sites=sites,
                kronecker=kronecker,
            )
        except BaseException:
            self.slots.reject(slot)
            self.notify()
            raise
        self.slots.publish(slot, Resident(entry, generation, time.time(), tensors, index))
        self.metrics.count(Count.LOADS)
        if copy_seconds is not None:
            self.metrics.observe(Duration.COPY, copy_seconds)
        if seconds_since_noticed is not None:
            ready = seconds_since_noticed + time.monotonic() - began
            self.metrics.observe(Duration.DETECT_TO_READY, ready)
        log.info("adapter %r resident in slot %d, generation %d", entry.name, index, generation)
        self.catalog.put(entry)
        self.notify()

    def abandon(self, session_id: str, index: int, generation: int) -> None:
        """Frees a reservation that its writer gives up."""
        self.slots.abandon(session_id, index, generation)
        self.notify()

    def report(
        self,
        session_id: str,
        entries: Iterable[FileEntry],
        pending: Iterable[str] = (),
        waiting: Iterable[FileEntry] = (),
        thumbnails: Mapping[str, str] | None = None,
        *,
        thumbnails_complete: bool = True,
    ) -> None:
        """Replaces the catalog; a name without a usable file loses its slot.

        Args:
            session_id: of the manager.
            entries: files that it has read.
            pending: names of files that it has not read yet; their last entries stay.
            waiting: files whose new content is not finished; their last entries stay.
            thumbnails: name -> hash of the thumbnail, of files that have one.
            thumbnails_complete: False while it has not looked for all; known ones stay.

        Raises:
            RequestError: SESSION_LOST.
        """
        self._check(session_id)
        listed = {entry.name: entry for entry in entries}
        unfinished = list(waiting)
        self.pending = frozenset(pending) | ({f.name for f in unfinished} - listed.keys())
        self._note(listed)
        listed = merge_report(
            listed.values(), pending=self.pending, waiting=unfinished, known=self._known
        )
        for name in [a.entry.name for a in self.catalog.adapters]:
            resident, entry = self.slots.published(name), listed.get(name)
            if resident is not None and (
                entry is None
                or entry.refusal_reason
                or entry.content_hash != resident.entry.content_hash
            ):
                self.slots.unpublish(name)
        self.catalog.thumbnails.report(thumbnails or {}, complete=thumbnails_complete)
        self.catalog.replace(listed.values())
        self.notify()

    def put_thumbnails(self, session_id: str, jpegs: Iterable[bytes]) -> None:
        """Keeps thumbnails that the last report named and that are missing.

        Raises:
            RequestError: SESSION_LOST.
        """
        self._check(session_id)
        self.catalog.thumbnails.put(jpegs)
        self.notify()

    def spelled(self, name: str) -> str:
        """Returns the adapter's name as its file spells it; see `WatchedAdapters.spelled`."""
        spelled = self.catalog.spelled(name)
        if name.isascii() or self.catalog.get(spelled) is not None:
            return spelled
        return next((p for p in self.pending if same_name(p) == same_name(name)), name)

    def promote(self, name: str) -> None:
        """Asks the manager, if one is attached, to load an adapter now."""
        if self._session is not None:
            self._session.promotions.put_nowait(name)

    def expire(self) -> None:
        """Quarantines slots whose leases have run out."""
        for slot in self.slots.expire_leases():
            log.warning("slot %d: the writer of %r missed its lease", slot.index, slot.name)

    def notify(self) -> None:
        """Brings the catalog up to date after a change, and wakes everything that waits."""
        self.catalog.refresh()
        self._changed.set()
        self._changed = asyncio.Event()

    def resident_bytes(self) -> int:
        """Returns the bytes of the slots that hold published adapters."""
        resident = sum(a.state is AdapterState.RESIDENT for a in self.catalog.adapters)
        return resident * self.segment.layout.slot_bytes

    def _known(self, name: str) -> FileEntry | None:
        adapter = self.catalog.get(name)
        return None if adapter is None else adapter.entry

    def _note(self, listed: Mapping[str, FileEntry]) -> None:
        """Counts newly refused files, and warns of pinned names that no file has."""
        for name, entry in listed.items():
            known = self._known(name)
            before = None if known is None else replace(known, waiting_reason="")
            if entry.refusal_reason and entry != before:
                self.metrics.count(Count.REFUSED)
        if not self.reported:
            self.reported = True
            there = set(map(same_name, (*listed, *self.pending)))
            for name in sorted(self.pinned - there):
                log.warning("--pin-adapter %s: there is no such adapter so far", name)

    def _check(self, session_id: str) -> None:
        if self._session is None or self._session.id != session_id:
            raise RequestError(Reason.SESSION_LOST, "this session has ended; attach again")
