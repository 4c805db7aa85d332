"""A slot table with its own clock, and short helpers for its tests."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from inference_server.adapters.metrics import AdapterMetrics
from inference_server.adapters.records import FileEntry, Resident
from inference_server.adapters.slot_state import Pin, Slot, SlotState
from inference_server.adapters.slots import SlotTable
from inference_server.errors import RequestError
from inference_server.model.kernels.low_rank import AdapterTensors
from wuliart_contract.status import Reason

LIMIT = 4
LEASE = 10.0
ME = "session"


def content(name: str, generation: int) -> Resident:
    entry = FileEntry(name, name, (), 4, 1000, f"hash {generation}")
    return Resident(entry, generation, 0.0, AdapterTensors({}, {}), 0)


@dataclass
class SlotBench:
    """A table with its own clock, which records the slots that it zeroed."""

    limit: int = LIMIT
    now: float = 0.0
    zeroed: list[int] = field(default_factory=list)
    requests: int = 0
    kept: tuple[str, ...] = ()
    metrics: AdapterMetrics = field(default_factory=AdapterMetrics)

    def __post_init__(self) -> None:
        self.table = SlotTable(
            self.limit + 1,
            resident_limit=self.limit,
            lease_seconds=LEASE,
            clock=lambda: self.now,
            zero=self.zeroed.append,
            metrics=self.metrics,
            kept=self.kept,
        )

    def reserve(self, name: str, *, evict: bool = True, session: str = ME) -> Slot:
        self.requests += 1
        return self.table.reserve(session, f"request {self.requests}", name, evict=evict)

    def publish(self, name: str) -> Slot:
        return self.commit(self.reserve(name))

    def commit(self, slot: Slot) -> Slot:
        verifying = self.table.begin_verify(slot.session, slot.index, slot.generation)
        assert verifying is slot
        self.table.publish(slot, content(slot.name, slot.generation))
        return slot

    def pin(self, name: str) -> Pin:
        pin = self.table.pin(name)
        assert pin is not None
        return pin

    def states(self) -> list[SlotState]:
        return sorted((slot.state for slot in self.table.slots), key=lambda state: state.value)


def refused(reason: Reason, call: Callable[[], object]) -> RequestError:
    with pytest.raises(RequestError) as caught:
        call()
    assert caught.value.reason is reason
    return caught.value
