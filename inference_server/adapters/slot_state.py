"""One slot of the segment: its states, its record, and the pins that keep it.

FREE -> RESERVED -> VERIFYING -> READY -> DRAINING -> FREE
|            |
|            +-> FREE       (the checksum did not match; zeroed)
+-> FREE                    (given back, or its writer is gone; zeroed)
+-> QUARANTINE -> FREE      (the lease ran out; the writer may still be writing)
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from inference_server.adapters.records import Resident


class SlotState(Enum):
    """The state of a slot."""

    FREE = "free"
    RESERVED = "reserved"
    VERIFYING = "verifying"
    READY = "ready"
    DRAINING = "draining"
    QUARANTINE = "quarantine"


WRITING = frozenset({SlotState.RESERVED, SlotState.VERIFYING})
"""States of a slot whose adapter is on its way in."""


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
    """Monotonic seconds."""
    drains_since: float = 0.0
    """Monotonic seconds."""
    content: Resident | None = None
    pins: int = 0
    last_used: int = 0
    """Number of the last pin or publication, counted over all slots."""


@dataclass(frozen=True, slots=True)
class Pin:
    """Keeps one generation of one slot unchanged until it is released."""

    slot: int
    content: Resident
