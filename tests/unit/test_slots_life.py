"""Invariants of the slot table under any order of events: managers that attach, write, stall and
die, and images that pin.
"""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from inference_server.adapters.slot_state import Pin, Slot, SlotState
from inference_server.errors import RequestError
from tests.support.slot_bench import LEASE, SlotBench, content, refused
from wuliart_contract.status import Reason

NAMES = st.sampled_from("abcdef")
PICK = st.integers(0, 1 << 16)


@dataclass(frozen=True)
class Held:
    """A reservation as its writer remembers it."""

    session: str
    slot: int
    generation: int
    name: str


class SlotLife(RuleBasedStateMachine):
    """Managers and images on one table.

    `memory` is the content of each slot: the generation that was written last, 0 for zeros.
    Writers keep writing while their process lives, with or without a lease.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bench = SlotBench(limit=3, kept=("a",))
        self.table = self.bench.table
        self.memory = [0] * 4
        self.table._zero = self.zero
        self.session = 0
        self.latest = 0
        self.held: list[Held] = []
        self.verifying: list[Held] = []
        self.pins: list[Pin] = []
        self.committed: set[int] = set()
        self.used: dict[int, int] = {}
        self.clock = 0

    def zero(self, slot: int) -> None:
        self.memory[slot] = 0

    def touch(self, generation: int) -> None:
        self.clock += 1
        self.used[generation] = self.clock

    def ready(self) -> dict[int, Slot]:
        return {s.generation: s for s in self.table.slots if s.state is SlotState.READY}

    @rule(name=NAMES, evict=st.booleans())
    def reserve(self, name: str, evict: bool) -> None:
        promised = self.table.can_reserve(name)
        before, free = self.ready(), self.bench.states().count(SlotState.FREE)
        updated = {h.name for h in (*self.held, *self.verifying)}
        idle = {g for g, s in before.items() if s.pins == 0 and s.name in (name, *"bcdef")}
        names = {g: s.name for g, s in before.items()}
        try:
            slot = self.bench.reserve(name, evict=evict, session=str(self.session))
        except RequestError as error:
            assert error.reason is Reason.NO_FREE_SLOT
            assert self.ready() == before
            assert not (evict and promised)
            return
        assert promised or not evict
        assert slot.generation > self.latest
        self.latest = slot.generation
        gone = before.keys() - self.ready().keys()
        assert len(gone) <= 1
        assert gone <= idle
        assert not gone or evict
        for generation in gone:
            assert not any(
                self.used[other] < self.used[generation] and names[other] not in updated
                for other in idle
            )
        assert gone or free
        assert self.memory[slot.index] in {0} | self.committed, "what a failed writer left"
        assert not any(pin.slot == slot.index for pin in self.pins)
        self.held.append(Held(str(self.session), slot.index, slot.generation, name))

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def write(self, pick: int) -> None:
        held = self.held[pick % len(self.held)]
        self.memory[held.slot] = held.generation

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def commit(self, pick: int) -> None:
        held = self.held.pop(pick % len(self.held))
        state = self.table.slots[held.slot].state
        assert state in (SlotState.RESERVED, SlotState.QUARANTINE)
        if state is SlotState.RESERVED:
            self.memory[held.slot] = held.generation
            assert self.table.begin_verify(held.session, held.slot, held.generation)
            self.verifying.append(held)
        else:
            refused(
                Reason.RESERVATION_LOST,
                lambda: self.table.begin_verify(held.session, held.slot, held.generation),
            )
            self.held.append(held)

    @precondition(lambda self: self.verifying)
    @rule(pick=PICK, good=st.booleans())
    def verify(self, pick: int, good: bool) -> None:
        held = self.verifying.pop(pick % len(self.verifying))
        slot = self.table.slots[held.slot]
        if good:
            self.committed.add(held.generation)
            self.touch(held.generation)
            self.table.publish(slot, content(held.name, held.generation))
            found = self.table.published(held.name)
            assert found is not None
            assert found.generation == held.generation
            assert self.table.begin_verify(held.session, held.slot, held.generation) is None
        else:
            self.table.reject(slot)

    @precondition(lambda self: self.held)
    @rule(pick=PICK)
    def abandon(self, pick: int) -> None:
        held = self.held.pop(pick % len(self.held))
        self.table.abandon(held.session, held.slot, held.generation)
        assert self.table.slots[held.slot].state is SlotState.FREE

    @rule(seconds=st.sampled_from([1.0, LEASE]))
    def time_passes(self, seconds: float) -> None:
        self.bench.now += seconds
        self.table.expire_leases()

    @rule()
    def next_session(self) -> None:
        self.table.close_session(str(self.session))
        self.session += 1

    @precondition(lambda self: self.session)
    @rule(back=st.integers(1, 3))
    def writer_is_gone(self, back: int) -> None:
        session = str(self.session - back)
        self.table.writer_is_gone(session)
        self.held = [held for held in self.held if held.session != session]

    @rule(name=NAMES)
    def pin(self, name: str) -> None:
        if (pin := self.table.pin(name)) is not None:
            self.touch(pin.content.generation)
            self.pins.append(pin)

    @precondition(lambda self: self.pins)
    @rule(pick=PICK)
    def release(self, pick: int) -> None:
        self.table.release(self.pins.pop(pick % len(self.pins)))

    @rule(name=NAMES)
    def unpublish(self, name: str) -> None:
        self.table.unpublish(name)
        assert self.table.published(name) is None

    @invariant()
    def the_map_and_the_slots_agree(self) -> None:
        names = {s.name: s.content for s in self.ready().values()}
        assert len(names) == len(self.ready())
        assert {n: self.table.published(n) for n in "abcdef"} == {n: names.get(n) for n in "abcdef"}
        assert len(names) <= self.table.resident_limit

    @invariant()
    def what_is_pinned_stays_as_it_is(self) -> None:
        for pin in self.pins:
            slot = self.table.slots[pin.slot]
            assert slot.state in (SlotState.READY, SlotState.DRAINING)
            assert slot.content is pin.content
            assert self.memory[pin.slot] == slot.generation == pin.content.generation

    @invariant()
    def every_slot_is_in_one_state_of_its_life(self) -> None:
        for slot in self.table.slots:
            assert slot.pins == sum(pin.slot == slot.index for pin in self.pins)
            used = slot.state in (SlotState.READY, SlotState.DRAINING)
            assert (slot.content is not None) == used
            assert used or slot.pins == 0
            if slot.state is SlotState.READY:
                assert self.memory[slot.index] == slot.generation
            if slot.state is SlotState.DRAINING:
                assert slot.pins
        assert {h.slot for h in (*self.held, *self.verifying)} == {
            s.index
            for s in self.table.slots
            if s.state in (SlotState.RESERVED, SlotState.VERIFYING, SlotState.QUARANTINE)
        }


TestSlotLife = SlotLife.TestCase
TestSlotLife.settings = settings(max_examples=100, stateful_step_count=40)
