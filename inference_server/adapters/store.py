"""Adapters as the manager brings them: into slots, and into the catalogue.

Owns the order in which slots, segment and catalogue change together, and the manager's session.
Knows nothing of requests (`binder` does), gRPC or sockets. Lives on the event loop; only checksums
and copies run in a worker thread.
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
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.slots import Slot, SlotTable
from inference_server.errors import RequestError
from wuliart_contract.adapter_names import same_name
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""Writing a slot takes milliseconds; a writer that needs longer is stopped or stuck."""


@dataclass(eq=False)
class Session:
    """One attached manager."""

    id: str
    promotions: asyncio.Queue[str] = field(default_factory=asyncio.Queue)


class AdapterStore:
    """Everything the server knows and holds of adapters.

    Args:
        segment: the memory.
        resident_limit: adapters that may be resident at once; the segment has one slot more.
        pinned: names of adapters that are never evicted for another's sake.
    """

    def __init__(
        self, segment: AdapterSegment, resident_limit: int, pinned: Collection[str] = ()
    ) -> None:
        self.segment = segment
        self.metrics = AdapterMetrics()
        self.pinned = frozenset(map(same_name, pinned))
        self.epoch = secrets.token_hex(16)
        """Random per server life; a manager that sees a new one knows every slot is empty."""
        self.slots = SlotTable(
            resident_limit + 1,
            resident_limit,
            LEASE_SECONDS,
            time.monotonic,
            segment.zero,
            self.metrics,
            self.pinned,
        )
        self.catalog = Catalog(self.slots.published, self.pinned)
        self.reported = False
        """Whether any manager has told yet what there is."""
        self.pending: frozenset[str] = frozenset()
        """Names of files that the manager sees and has not judged yet."""
        self._session: Session | None = None
        self._changed = asyncio.Event()

    @property
    def manager_attached(self) -> bool:
        """Whether a LoRA manager's session is open."""
        return self._session is not None

    @property
    def session_id(self) -> str:
        """Of the manager's session; empty without one."""
        return "" if self._session is None else self._session.id

    @property
    def changed(self) -> asyncio.Event:
        """Set at the next change of anything here; to be asked for anew after each."""
        return self._changed

    # -- the manager's side -----------------------------------------------------------------

    def attach(self) -> Session:
        """Opens the one session.

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
        """The session's stream ended; adapters stay drawable without a manager."""
        self.slots.close_session(session.id)
        if self._session is session:
            self._session = None
        self.notify()

    def writer_is_gone(self, session_id: str) -> None:
        """The session's process can no longer touch the segment."""
        self.slots.writer_is_gone(session_id)
        if self._session is not None and self._session.id == session_id:
            # A request of it may still be on its way; nobody would free what that reserves.
            self._session = None
        self.notify()

    def reserve(self, session_id: str, request_id: str, name: str, evict: bool) -> Slot:
        """A slot to write; see `SlotTable.reserve`."""
        self._check(session_id)
        self.expire()
        slot = self.slots.reserve(session_id, request_id, name, evict)
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
        copied: float | None = None,
        noticed: float | None = None,
    ) -> None:
        """Verifies what was written and publishes it.

        Args:
            session_id: of the writer.
            index: of the slot.
            generation: of its reservation.
            checksum: XXH3-128 of its first `written_bytes` bytes.
            written_bytes: what is looked at.
            entry: the file it was written from.
            packed_rank: of its low-rank sites.
            sites: that the adapter acts on.
            copied: seconds that writing took, if told.
            noticed: seconds since the file was seen to have changed, if that is why it comes.

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
            if entry.name != slot.name or not 0 < written_bytes <= self.segment.layout.slot_bytes:
                raise RequestError(Reason.INVALID_REQUEST, "the commit does not fit its slot")
            try:
                reach = self.segment.layout.packing(packed_rank, sites).nbytes
            except ValueError as error:
                raise RequestError(Reason.INVALID_REQUEST, str(error)) from None
            if reach > written_bytes:
                # Bytes behind the checksum's reach must never be generated with.
                raise RequestError(
                    Reason.INVALID_REQUEST, "the commit's sites reach beyond its written bytes"
                )
            tensors = self.segment.tensors(index, packed_rank, sites)
            verified = await self._verified(index, written_bytes, checksum)
            self.metrics.observe(Duration.VERIFY, time.monotonic() - began)
            if not verified:
                self.metrics.count(Count.CHECKSUM_FAILURES)
                raise RequestError(
                    Reason.CHECKSUM_MISMATCH,
                    f"slot {index} does not hold what was committed; write it again",
                )
        except BaseException:
            self.slots.reject(slot)
            self.notify()
            raise
        self.slots.publish(slot, Resident(entry, generation, time.time(), tensors, index))
        self.metrics.count(Count.LOADS)
        if copied is not None:
            self.metrics.observe(Duration.COPY, copied)
        if noticed is not None:
            self.metrics.observe(Duration.DETECT_TO_READY, noticed + time.monotonic() - began)
        log.info("adapter %r resident in slot %d, generation %d", entry.name, index, generation)
        self.catalog.put(entry)
        self.notify()

    async def _verified(self, index: int, nbytes: int, checksum: bytes) -> bool:
        """Whether the slot holds what was committed; if so, it is where the transformer reads it.

        A client that leaves must not have the slot freed under the worker: its end is waited for.
        """
        work = asyncio.ensure_future(asyncio.to_thread(self._verify, index, nbytes, checksum))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def _verify(self, index: int, nbytes: int, checksum: bytes) -> bool:
        self.segment.stage(index, nbytes)
        return self.segment.checksum(index, nbytes) == checksum

    def abandon(self, session_id: str, index: int, generation: int) -> None:
        """The writer gives a reservation back."""
        self.slots.abandon(session_id, index, generation)
        self.notify()

    def report(
        self,
        session_id: str,
        entries: Iterable[FileEntry],
        pending: Iterable[str] = (),
        waiting: Iterable[FileEntry] = (),
    ) -> None:
        """Takes the manager's whole catalogue; names without a usable file lose their slot.

        A `pending` name has a file that is not judged yet: what was known of it stays. So does
        what is known of a `waiting` one, whose new content is not finished.
        """
        self._check(session_id)
        listed = {entry.name: entry for entry in entries}
        waits = {entry.name: entry for entry in waiting}
        self.pending = frozenset(pending) | (waits.keys() - listed.keys())
        self._note(listed)
        for name in self.pending - listed.keys():
            if (known := self.catalog.get(name)) is not None and known.entry.is_judged:
                listed[name] = replace(known.entry, waiting_reason="")
        for name, file in waits.items():
            listed[name] = replace(listed.get(name, file), waiting_reason=file.waiting_reason)
        for name in [a.entry.name for a in self.catalog.adapters]:
            resident, entry = self.slots.published(name), listed.get(name)
            if resident is not None and (
                entry is None
                or entry.refusal_reason
                or entry.content_hash != resident.entry.content_hash
            ):
                self.slots.unpublish(name)
        self.catalog.replace(listed.values())
        self.notify()

    # -- for images ------------------------------------------------------------------------

    def spelled(self, name: str) -> str:
        """The adapter's name as its file has it; see `Changes.spelled`."""
        spelled = self.catalog.spelled(name)
        if name.isascii() or self.catalog.get(spelled) is not None:
            return spelled
        return next((p for p in self.pending if same_name(p) == same_name(name)), name)

    def promote(self, name: str) -> None:
        """Asks the manager, if there is one, to load an adapter now."""
        if self._session is not None:
            self._session.promotions.put_nowait(name)

    def expire(self) -> None:
        """Looks for leases that have run out."""
        for slot in self.slots.expire_leases():
            log.warning("slot %d: the writer of %r missed its lease", slot.index, slot.name)

    def notify(self) -> None:
        """Something has changed: the catalogue is brought up to date, and who waits is woken."""
        self.catalog.refresh()
        self._changed.set()
        self._changed = asyncio.Event()

    def resident_bytes(self) -> int:
        """Bytes of the segment that hold published adapters."""
        resident = sum(a.state is AdapterState.RESIDENT for a in self.catalog.adapters)
        return resident * self.segment.layout.slot_bytes

    # -- inside -----------------------------------------------------------------------------

    def _note(self, listed: Mapping[str, FileEntry]) -> None:
        """Counts what is newly refused, and warns of pinned names that no file has."""
        for name, entry in listed.items():
            known = self.catalog.get(name)
            before = None if known is None else replace(known.entry, waiting_reason="")
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
