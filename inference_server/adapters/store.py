"""Adapters between the manager that writes them and the pictures that use them.

Owns the order in which slots, segment and catalogue change together, the manager's session, and
the binding of a request's adapters to exact versions. Knows nothing of gRPC or sockets. Lives on
the event loop; only checksums and copies run in a worker thread.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from inference_server.adapters import refusals
from inference_server.adapters.binding import Binding
from inference_server.adapters.catalog import Catalog
from inference_server.adapters.records import AdapterState, FileEntry, Resident, Wanted
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.slots import Pin, Slot, SlotTable
from inference_server.errors import RequestError
from wuliart.contract.status import Reason

log = logging.getLogger(__name__)

LEASE_SECONDS = 10.0
"""Writing a slot takes milliseconds; a writer that needs longer is stopped or stuck."""

PROMOTION_SECONDS = 10.0
"""How long a request waits for an adapter that is not resident."""

PROMOTION_RETRY_SECONDS = 2.0


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
    """

    def __init__(self, segment: AdapterSegment, resident_limit: int) -> None:
        self.segment = segment
        self.epoch = secrets.token_hex(16)
        """Random per server life; a manager that sees a new one knows every slot is empty."""
        self.slots = SlotTable(
            resident_limit + 1, resident_limit, LEASE_SECONDS, time.monotonic, segment.zero
        )
        self.catalog = Catalog(self.slots.published)
        self._session: Session | None = None
        self._changed = asyncio.Event()

    @property
    def manager_attached(self) -> bool:
        """Whether a LoRA manager's session is open."""
        return self._session is not None

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
        self._notify()
        return self._session

    def detach(self, session: Session) -> None:
        """The session's stream ended; adapters stay drawable without a manager."""
        self.slots.close_session(session.id)
        if self._session is session:
            self._session = None
        self._notify()

    def writer_is_gone(self, session_id: str) -> None:
        """The session's process can no longer touch the segment."""
        self.slots.writer_is_gone(session_id)
        if self._session is not None and self._session.id == session_id:
            # A request of it may still be on its way; nobody would free what that reserves.
            self._session = None
        self._notify()

    def reserve(self, session_id: str, request_id: str, name: str, evict: bool) -> Slot:
        """A slot to write; see `SlotTable.reserve`."""
        self._check(session_id)
        self._expire()
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
    ) -> None:
        """Verifies what was written and publishes it.

        Raises:
            RequestError: SESSION_LOST, RESERVATION_LOST, CHECKSUM_MISMATCH or INVALID_REQUEST.
        """
        self._check(session_id)
        self._expire()
        slot = self.slots.begin_verify(session_id, index, generation)
        if slot is None:
            return
        try:
            if entry.name != slot.name or not 0 < written_bytes <= self.segment.layout.slot_bytes:
                raise RequestError(Reason.INVALID_REQUEST, "the commit does not fit its slot")
            try:
                tensors = self.segment.tensors(index, packed_rank, sites)
            except ValueError as error:
                raise RequestError(Reason.INVALID_REQUEST, str(error)) from None
            if self.segment.layout.end(packed_rank, sites) > written_bytes:
                # Bytes behind the checksum's reach must never be drawn with.
                raise RequestError(
                    Reason.INVALID_REQUEST, "the commit's sites reach beyond its written bytes"
                )
            if not await self._verified(index, written_bytes, checksum):
                raise RequestError(
                    Reason.CHECKSUM_MISMATCH,
                    f"slot {index} does not hold what was committed; write it again",
                )
        except BaseException:
            self.slots.reject(slot)
            self._notify()
            raise
        self.slots.publish(slot, Resident(entry, generation, time.time(), tensors))
        log.info("adapter %r resident in slot %d, generation %d", entry.name, index, generation)
        self.catalog.put(entry)
        self._notify()

    async def _verified(self, index: int, nbytes: int, checksum: bytes) -> bool:
        """Whether the slot holds what was committed; if so, it is where the transformer reads it.

        A caller that leaves must not have the slot freed under the worker: its end is waited for.
        """
        work = asyncio.ensure_future(asyncio.to_thread(self._verify, index, nbytes, checksum))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            await asyncio.wait([work])
            raise

    def _verify(self, index: int, nbytes: int, checksum: bytes) -> bool:
        if self.segment.checksum(index, nbytes) != checksum:
            return False
        self.segment.stage(index, nbytes)
        return True

    def abandon(self, session_id: str, index: int, generation: int) -> None:
        """The writer gives a reservation back."""
        self.slots.abandon(session_id, index, generation)
        self._notify()

    def report(
        self, session_id: str, entries: Iterable[FileEntry], pending: Iterable[str] = ()
    ) -> None:
        """Takes the manager's whole catalogue; names without a usable file lose their slot.

        A `pending` name has a file that is not judged yet: what was known of it stays.
        """
        self._check(session_id)
        listed = {entry.name: entry for entry in entries}
        for name in pending:
            if name not in listed and (known := self.catalog.get(name)) is not None:
                listed[name] = known.entry
        for name in [a.entry.name for a in self.catalog.adapters]:
            resident, entry = self.slots.published(name), listed.get(name)
            if resident is not None and (
                entry is None
                or entry.refusal_reason
                or entry.content_hash != resident.entry.content_hash
            ):
                self.slots.unpublish(name)
        self.catalog.replace(listed.values())
        self._notify()

    # -- the pictures' side -----------------------------------------------------------------

    def check(self, wanted: Sequence[Wanted]) -> None:
        """Refuses at once what cannot be drawn.

        Raises:
            RequestError: ADAPTER_NOT_FOUND, ADAPTER_REFUSED or MANAGER_UNAVAILABLE.
        """
        for adapter in wanted:
            if self.slots.published(adapter.name) is None:
                self._check_loadable(adapter.name)

    def try_bind(self, wanted: Sequence[Wanted]) -> Binding | None:
        """Pins one exact version of each adapter if all are resident; None if one is not."""
        if any(self.slots.published(adapter.name) is None for adapter in wanted):
            return None
        pins = [pin for adapter in wanted if (pin := self.slots.pin(adapter.name))]
        return Binding(tuple(wanted), tuple(pins))

    async def bind(self, wanted: Sequence[Wanted]) -> Binding:
        """Pins one exact version of each adapter, having absent ones loaded first.

        Raises:
            RequestError: as `check`, or NO_FREE_SLOT.
        """
        pins: dict[str, Pin] = {}
        asked: dict[str, float] = {}
        deadline = time.monotonic() + PROMOTION_SECONDS
        try:
            while True:
                changed = self._changed
                for adapter in wanted:
                    if adapter.name not in pins and (pin := self.slots.pin(adapter.name)):
                        pins[adapter.name] = pin
                missing = [w.name for w in wanted if w.name not in pins]
                if not missing:
                    return Binding(tuple(wanted), tuple(pins[w.name] for w in wanted))
                now = time.monotonic()
                for name in missing:
                    self._check_loadable(name)
                    if now - asked.get(name, -1e9) >= PROMOTION_RETRY_SECONDS:
                        self._ask_for(name, asked, now)
                if self._wait_is_for_pictures(missing, len(pins)):
                    deadline = now + PROMOTION_SECONDS
                if now >= deadline:
                    if self.slots.can_reserve(missing[0]):
                        raise refusals.not_loaded(missing[0], PROMOTION_SECONDS)
                    raise refusals.no_slot(missing[0])
                timeout = min(PROMOTION_RETRY_SECONDS, deadline - now)
                try:
                    # Not wait_for: Python 3.11's loses a cancellation that comes with the news.
                    async with asyncio.timeout(timeout):
                        await changed.wait()
                except TimeoutError:
                    self._expire()
        except BaseException:
            for pin in pins.values():
                self.slots.release(pin)
            raise

    def release(self, binding: Binding) -> None:
        """The binding's picture has done its last work on the device."""
        for pin in binding.pins:
            self.slots.release(pin)
        self._notify()

    def resident_bytes(self) -> int:
        """Bytes of the segment that hold published adapters."""
        resident = sum(a.state is AdapterState.RESIDENT for a in self.catalog.adapters)
        return resident * self.segment.layout.slot_bytes

    # -- inside -----------------------------------------------------------------------------

    def _check(self, session_id: str) -> None:
        if self._session is None or self._session.id != session_id:
            raise RequestError(Reason.SESSION_LOST, "this session has ended; attach again")

    def _check_loadable(self, name: str) -> None:
        adapter = self.catalog.get(name)
        if adapter is None:
            raise refusals.not_found(name, self.catalog.nearest(name))
        if adapter.state is AdapterState.REFUSED:
            raise refusals.refused(name, adapter.entry.refusal_reason)
        if self._session is None:
            raise refusals.no_manager(name)

    def _wait_is_for_pictures(self, missing: Sequence[str], own_pins: int) -> bool:
        # Pictures end by themselves, however long they take; only a manager can be stuck.
        others = self.slots.pin_count > own_pins
        return others and not any(self.slots.can_reserve(name) for name in missing)

    def _ask_for(self, name: str, asked: dict[str, float], now: float) -> None:
        # Asking while every slot is pinned would only fail; the release that changes it wakes us.
        if self._session is not None and self.slots.can_reserve(name):
            self._session.promotions.put_nowait(name)
            asked[name] = now

    def _expire(self) -> None:
        for slot in self.slots.expire_leases():
            log.warning("slot %d: the writer of %r missed its lease", slot.index, slot.name)

    def _notify(self) -> None:
        self.catalog.refresh()
        self._changed.set()
        self._changed = asyncio.Event()
