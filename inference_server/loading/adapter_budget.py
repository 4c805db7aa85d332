"""How many adapters stay on the device at once, and of what rank.

Owns the choice where the operator leaves it open: a small card's memory is worth more as resident
weights, a large one's is there for adapters. Knows sizes only.
"""

from __future__ import annotations

from collections.abc import Callable

from inference_server.engine.loaded_model import AdapterCapacity

USUAL = AdapterCapacity(4, 32)
"""Where memory is not planned."""

CHOICES = (
    AdapterCapacity(8, 64),
    AdapterCapacity(4, 64),
    USUAL,
    AdapterCapacity(2, 32),
    AdapterCapacity(2, 16),
)
"""Best first. Two is the least: an adapter and the one that is tried beside it stay warm."""

SHARE = 1 / 16
"""Of the budget. At Qwen-Image's size, 18.7 GB have two slots of rank 16 (0.77 GB with the spare),
24 GB two of rank 32, 80 GB four of rank 64."""


def choose_room(
    budget: int | None,
    slot_bytes: Callable[[int], int],
    slots: int | None = None,
    max_rank: int | None = None,
    pinned: int = 0,
) -> AdapterCapacity:
    """The first of CHOICES that fits into its share of the budget, else the last.

    Args:
        budget: bytes of device memory; None: not planned.
        slot_bytes: of a slot for adapters up to a rank.
        slots: as the operator says; None: chosen.
        max_rank: as the operator says; None: chosen.
        pinned: adapters that never make room; one slot more than that is the least.
    """
    rooms = [
        AdapterCapacity(slots or max(room.slots, pinned + 1), max_rank or room.max_rank)
        for room in ((USUAL,) if budget is None else CHOICES)
    ]
    fitting = (r for r in rooms if r.allocated * slot_bytes(r.max_rank) <= SHARE * (budget or 0))
    return next(fitting, rooms[-1])
