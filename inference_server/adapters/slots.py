"""The table of the segment's slots, as a state machine without I/O (states: `slot_state`).

The table counts generations, grants leases and pins, and maps each name to the slot published under
it; publishing is one assignment to that map. Only the event loop calls the table, which reads time
through `clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from inference_server.adapters.eviction import EvictionPolicy
from inference_server.adapters.metrics import AdapterMetrics, Count, Duration
from inference_server.adapters.records import Resident
from inference_server.adapters.slot_state import Pin, Slot, SlotState
from inference_server.errors import RequestError
from wuliart_contract.status import Reason


class SlotTable:
    """All slots of the segment.

    Args:
        count: number of slots: `resident_limit` and at least one spare for updates.
        resident_limit: adapters that may be published at once.
        lease_seconds: time in which a reservation must be committed.
        clock: monotonic seconds.
        zero: overwrites a slot's memory; called before a slot whose writer failed is reused.
        metrics: counts evictions, drains and leases that ran out.
        kept: names of adapters that are not evicted for another name.
    """

    def __init__(
        self,
        count: int,
        *,
        resident_limit: int,
        lease_seconds: float,
        clock: Callable[[], float],
        zero: Callable[[int], None],
        metrics: AdapterMetrics,
        kept: Collection[str] = (),
    ) -> None:
        if count <= resident_limit:
            raise ValueError(f"{resident_limit} resident adapters need more than {count} slots")
        self.slots = [Slot(index) for index in range(count)]
        self.resident_limit = resident_limit
        self.lease_seconds = lease_seconds
        self._clock = clock
        self._zero = zero
        self._metrics = metrics
        self._eviction = EvictionPolicy(self.slots, resident_limit=resident_limit, kept=kept)
        self.kept = self._eviction.kept
        self._published: dict[str, int] = {}
        self._generation = 0
        self._uses = 0

    # -- requests ---------------------------------------------------------------------------

    def published(self, name: str) -> Resident | None:
        """Returns the content published under `name`, None if there is none."""
        index = self._published.get(name)
        return None if index is None else self.slots[index].content

    def pin(self, name: str) -> Pin | None:
        """Pins the slot published under `name`; returns None if there is none."""
        index = self._published.get(name)
        if index is None:
            return None
        slot = self.slots[index]
        assert slot.content is not None
        slot.pins += 1
        self._uses += 1
        slot.last_used = self._uses
        return Pin(index, slot.content)

    def release(self, pin: Pin) -> None:
        """Releases a pin, and frees a draining slot with its last one."""
        slot = self.slots[pin.slot]
        assert slot.pins > 0 and slot.generation == pin.content.generation
        slot.pins -= 1
        if slot.state is SlotState.DRAINING and slot.pins == 0:
            self._free(slot)

    # -- the writer -------------------------------------------------------------------------

    def reserve(self, session: str, request_id: str, name: str, *, evict: bool) -> Slot:
        """Reserves a slot for the session to write; a repeated request gets the same one.

        Args:
            session: of the writer.
            request_id: tells a retry from a new request.
            name: of the adapter.
            evict: allows an idle adapter to be evicted.

        Raises:
            RequestError: NO_FREE_SLOT.
        """
        for slot in self.slots:
            if slot.state is SlotState.RESERVED and (slot.session, slot.request_id) == (
                session,
                request_id,
            ):
                return slot
        if not self._eviction.below_limit(name):
            self._evict(self._eviction.replaceable(name), allowed=evict)
        free = next((s for s in self.slots if s.state is SlotState.FREE), None)
        if free is None:
            self._evict(self._eviction.evictable(name), allowed=evict)
            free = next(s for s in self.slots if s.state is SlotState.FREE)
        self._generation += 1
        free.state = SlotState.RESERVED
        free.generation = self._generation
        free.session, free.request_id, free.name = session, request_id, name
        free.lease_ends = self._clock() + self.lease_seconds
        return free

    @property
    def pin_count(self) -> int:
        """Pins on all slots."""
        return sum(slot.pins for slot in self.slots)

    def can_reserve(self, name: str) -> bool:
        """Returns True if `reserve` with eviction would find a slot now."""
        return self._eviction.can_reserve(name)

    def begin_verify(self, session: str, index: int, generation: int) -> Slot | None:
        """Moves a reservation that its writer has completed to verification.

        Returns:
            The slot; None if this generation is published already (a retry).

        Raises:
            RequestError: RESERVATION_LOST.
        """
        slot = self._of(index, generation)
        if slot is not None and slot.session == session:
            if slot.state is SlotState.READY:
                return None
            if slot.state is SlotState.RESERVED:
                slot.state = SlotState.VERIFYING
                return slot
        raise RequestError(
            Reason.RESERVATION_LOST,
            f"slot {index} generation {generation} is not reserved by this session (any more); "
            "abandon it and reserve again",
        )

    def publish(self, slot: Slot, content: Resident) -> None:
        """Publishes a verified slot under its name; the version it replaces drains."""
        assert slot.state is SlotState.VERIFYING and content.generation == slot.generation
        slot.state, slot.content = SlotState.READY, content
        self._uses += 1
        slot.last_used = self._uses
        previous = self._published.get(slot.name)
        self._published[slot.name] = slot.index
        if previous is not None:
            self._drain(self.slots[previous])

    def reject(self, slot: Slot) -> None:
        """Zeroes and frees a slot whose verification failed."""
        assert slot.state is SlotState.VERIFYING
        self._zero(slot.index)
        self._free(slot)

    def abandon(self, session: str, index: int, generation: int) -> None:
        """Frees a reservation that its writer no longer writes to; without one, does nothing."""
        slot = self._of(index, generation)
        if slot is not None and slot.session == session:
            self._reclaim(slot)

    def unpublish(self, name: str) -> None:
        """Removes the name; images that use the content keep it until they are done."""
        index = self._published.pop(name, None)
        if index is not None:
            self._drain(self.slots[index])

    def expire_leases(self) -> list[Slot]:
        """Moves reservations past their lease to quarantine; returns them."""
        now = self._clock()
        late = [s for s in self.slots if s.state is SlotState.RESERVED and now >= s.lease_ends]
        for slot in late:
            slot.state = SlotState.QUARANTINE
            self._metrics.count(Count.LEASE_EXPIRIES)
        return late

    def close_session(self, session: str) -> None:
        """Quarantines an ended session's reservations, which its process may still write to."""
        for slot in self.slots:
            if slot.session == session and slot.state is SlotState.RESERVED:
                slot.state = SlotState.QUARANTINE

    def writer_is_gone(self, session: str) -> None:
        """Zeroes and frees the reservations of a session whose process can no longer write."""
        for slot in self.slots:
            if slot.session == session:
                self._reclaim(slot)

    def _of(self, index: int, generation: int) -> Slot | None:
        if index >= len(self.slots) or self.slots[index].generation != generation:
            return None
        return self.slots[index]

    def _reclaim(self, slot: Slot) -> None:
        if slot.state in (SlotState.RESERVED, SlotState.QUARANTINE):
            self._zero(slot.index)
            self._free(slot)

    def _evict(self, idle: list[Slot], *, allowed: bool) -> None:
        if not allowed or not idle:
            raise RequestError(
                Reason.NO_FREE_SLOT,
                f"all {self.resident_limit} adapter slots are "
                + ("in use and none can be freed now" if allowed else "taken"),
                retry_after=1.0,
            )
        oldest = min(idle, key=lambda s: s.last_used)
        self._metrics.count(Count.EVICTED)
        self.unpublish(oldest.name)

    def _drain(self, slot: Slot) -> None:
        slot.state, slot.drains_since = SlotState.DRAINING, self._clock()
        if slot.pins == 0:
            self._free(slot)

    def _free(self, slot: Slot) -> None:
        if slot.state is SlotState.DRAINING:
            self._metrics.count(Count.DRAINED)
            self._metrics.observe(Duration.DRAIN, self._clock() - slot.drains_since)
        slot.state, slot.content = SlotState.FREE, None
        slot.session = slot.request_id = slot.name = ""
