"""Chooses how many adapters stay on the device at once, and up to which rank.

Where the operator leaves it open: the memory of a small card is worth more as resident weights, a
large card has enough for many adapters.
"""

from __future__ import annotations

from collections.abc import Callable

from inference_server.engine.loaded_model import AdapterCapacity

USUAL = AdapterCapacity(4, 32)
"""The choice where memory is not planned."""

CHOICES = (
    AdapterCapacity(8, 64),
    AdapterCapacity(4, 64),
    USUAL,
    AdapterCapacity(2, 32),
    AdapterCapacity(2, 16),
)
"""Best first. Two slots is the minimum: an adapter and its replacement stay resident."""

SHARE = 1 / 16
"""The adapters' share of the budget. For Qwen-Image 18.7 GB give two slots of rank 16 (0.79 GB with
the spare one), 24 GB two of rank 32, 80 GB four of rank 64."""


def choose_capacity(
    budget: int | None,
    slot_bytes: Callable[[int], int],
    *,
    slots: int | None = None,
    max_rank: int | None = None,
    pinned: int = 0,
) -> AdapterCapacity:
    """Returns the first of CHOICES that fits into its share of the budget, else the last.

    Args:
        budget: bytes of device memory; None: memory is not planned.
        slot_bytes: returns the size of a slot for adapters up to a rank.
        slots: the operator's number; None: chosen.
        max_rank: the operator's; None: chosen.
        pinned: adapters that are never evicted; there is at least one slot more.
    """
    choices = [
        AdapterCapacity(slots or max(choice.slots, pinned + 1), max_rank or choice.max_rank)
        for choice in ((USUAL,) if budget is None else CHOICES)
    ]
    share = SHARE * (budget or 0)
    fitting = (c for c in choices if c.allocated * slot_bytes(c.max_rank) <= share)
    return next(fitting, choices[-1])
