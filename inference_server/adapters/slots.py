"""The life of the segment's slots, as a state machine without I/O.

    FREE -> RESERVED -> VERIFYING -> READY -> DRAINING -> FREE
               |            |
               |            +-> FREE       (the checksum did not fit; zeroed)
               +-> FREE                    (given back, or its writer is gone; zeroed)
               +-> QUARANTINE -> FREE      (the lease ran out; the writer may still be writing)

Owns generations, leases, pins, who is evicted, and the one map from a name to the slot that is
published under it; publishing is one assignment to that map. Knows nothing of memory, files, clocks
or threads: the event loop is its only client, time comes in through `clock`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from enum import Enum

from inference_server.adapters.metrics import AdapterMetrics, Count, Duration
from inference_server.adapters.records import Resident
from inference_server.errors import RequestError
from wuliart_contract.adapter_names import same_name
from wuliart_contract.status import Reason


class SlotState(Enum):
    """Where a slot is in its life."""

    FREE = "free"
    RESERVED = "reserved"
    VERIFYING = "verifying"
    READY = "ready"
    DRAINING = "draining"
    QUARANTINE = "quarantine"


@dataclass(slots=True)
class Slot:
    """One slot. `generation` names its current reservation or content and is never reused."""

    index: int
    state: SlotState = SlotState.FREE
    generation: int = 0
    session: str = ""
    request_id: str = ""
    name: str = ""
    lease_ends: float = 0.0
    drains_since: float = 0.0
    content: Resident | None = None
    pins: int = 0
    last_used: int = 0


@dataclass(frozen=True, slots=True)
class Pin:
    """Keeps one generation of one slot untouched until it is released."""

    slot: int
    content: Resident


class SlotTable:
    """All slots of the segment.

    Args:
        count: slots there are: `resident_limit` and at least one spare for updates.
        resident_limit: adapters that may be published at once.
        lease_seconds: how long a reservation may take to be committed.
        clock: monotonic seconds.
        zero: overwrites a slot's memory; called before a slot whose writer failed is reused.
        metrics: told of evictions, drains and leases that ran out.
        kept: names whose adapters make no room for another name's.
    """

    def __init__(
        self,
        count: int,
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
        self.kept = frozenset(map(same_name, kept))
        self._published: dict[str, int] = {}
        self._generation = 0
        self._uses = 0

    # -- requests ---------------------------------------------------------------------------

    def published(self, name: str) -> Resident | None:
        """The content published under `name`, if any."""
        index = self._published.get(name)
        return None if index is None else self.slots[index].content

    def pin(self, name: str) -> Pin | None:
        """Resolves and pins in one step; None if nothing is published under `name`."""
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
        """Gives a pin back; frees the slot if it was the last one on a draining slot."""
        slot = self.slots[pin.slot]
        assert slot.pins > 0 and slot.generation == pin.content.generation
        slot.pins -= 1
        if slot.state is SlotState.DRAINING and slot.pins == 0:
            self._free(slot)

    # -- the writer -------------------------------------------------------------------------

    def reserve(self, session: str, request_id: str, name: str, evict: bool) -> Slot:
        """A slot for the session to write.

        A name that is already published may use the spare slot, so that an update never has to
        wait for the version it replaces; another name needs room below the resident limit.

        Raises:
            RequestError: NO_FREE_SLOT.
        """
        for slot in self.slots:
            if slot.state is SlotState.RESERVED and (slot.session, slot.request_id) == (
                session,
                request_id,
            ):
                return slot
        if not self._has_room(name):
            # The version of a name on its way back makes no room by going.
            claimed = self._claimed()
            self._evict([s for s in self._evictable(name) if s.name not in claimed], allowed=evict)
        free = next((s for s in self.slots if s.state is SlotState.FREE), None)
        if free is None:
            self._evict(self._evictable(name), allowed=evict)
            free = next(s for s in self.slots if s.state is SlotState.FREE)
        self._generation += 1
        free.state = SlotState.RESERVED
        free.generation = self._generation
        free.session, free.request_id, free.name = session, request_id, name
        free.lease_ends = self._clock() + self.lease_seconds
        return free

    @property
    def pin_count(self) -> int:
        """Pins held by images, over all slots."""
        return sum(slot.pins for slot in self.slots)

    def can_reserve(self, name: str) -> bool:
        """Whether `reserve` with eviction would find a slot now."""
        idle = self._evictable(name)
        if self._has_room(name):
            return bool(idle) or any(s.state is SlotState.FREE for s in self.slots)
        return not {s.name for s in idle} <= self._claimed()

    def begin_verify(self, session: str, index: int, generation: int) -> Slot | None:
        """The writer says it is done; None if this generation is published already (a retry).

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
        """Makes a verified slot the one its name means; the version it replaces drains."""
        assert slot.state is SlotState.VERIFYING and content.generation == slot.generation
        slot.state, slot.content = SlotState.READY, content
        self._uses += 1
        slot.last_used = self._uses
        previous = self._published.get(slot.name)
        self._published[slot.name] = slot.index
        if previous is not None:
            self._drain(self.slots[previous])

    def reject(self, slot: Slot) -> None:
        """Verification failed; nothing was published."""
        assert slot.state is SlotState.VERIFYING
        self._zero(slot.index)
        self._free(slot)

    def abandon(self, session: str, index: int, generation: int) -> None:
        """The writer promises that it no longer writes there. Harmless if nothing is held."""
        slot = self._of(index, generation)
        if slot is not None and slot.session == session:
            self._reclaim(slot)

    def unpublish(self, name: str) -> None:
        """Takes the name away; images that use the content go on with it."""
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
        """The session ended but its process may live on: its reservations may still be written."""
        for slot in self.slots:
            if slot.session == session and slot.state is SlotState.RESERVED:
                slot.state = SlotState.QUARANTINE

    def writer_is_gone(self, session: str) -> None:
        """The session's process can no longer write: what it held is zeroed and freed."""
        for slot in self.slots:
            if slot.session == session:
                self._reclaim(slot)

    # -- inside -----------------------------------------------------------------------------

    def _of(self, index: int, generation: int) -> Slot | None:
        if index >= len(self.slots) or self.slots[index].generation != generation:
            return None
        return self.slots[index]

    def _reclaim(self, slot: Slot) -> None:
        if slot.state in (SlotState.RESERVED, SlotState.QUARANTINE):
            self._zero(slot.index)
            self._free(slot)

    def _evictable(self, name: str) -> list[Slot]:
        """Slots that may go to make room for `name`; its own old version may even if it is kept."""
        kept = self.kept - {same_name(name)}
        return [
            s
            for s in self.slots
            if s.state is SlotState.READY and s.pins == 0 and same_name(s.name) not in kept
        ]

    def _claimed(self) -> set[str]:
        """Names on their way into a slot."""
        writing = (SlotState.RESERVED, SlotState.VERIFYING)
        return {s.name for s in self.slots if s.state in writing}

    def _has_room(self, name: str) -> bool:
        names = self._published.keys() | self._claimed()
        return name in names or len(names) < self.resident_limit

    def _evict(self, idle: list[Slot], allowed: bool) -> None:
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
