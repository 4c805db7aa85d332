"""Divides a budget of device memory once, at start.

Computes what stays on the device, what is there while images are generated, and how many layers
wait in host memory. No segment borrows from another, so a plan that fits at start keeps fitting.
"""

from __future__ import annotations

import math
from dataclasses import replace

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.errors import ModelError

RING_SLOTS = 4
"""Two for the blocks and two for the text encoder's layers: one is read while another is filled.
With three, each side evicts what the other has prefetched: 143 copies instead of 88."""

IDLE_SHARE = 0.6
"""Share of the budget that is used between images where blocks are streamed: 11.2 of 18.7 GB."""


def make_plan(demand: Demand, budget: int | None, idle: int | None = None) -> MemoryPlan:
    """Returns the plan that streams the least.

    Args:
        demand: the sizes of the model's parts.
        budget: maximum bytes while images are generated; None: no limit.
        idle: maximum bytes between images; None: the budget, or IDLE_SHARE of it if blocks are
            streamed.

    Raises:
        ModelError: no plan fits; the message gives the smallest budget that would.
    """
    d = demand
    ring = RING_SLOTS * max(d.block, d.text_layer)
    everything = MemoryPlan(d, d.blocks, 0, text_resident=True, tiles=False)
    if budget is None:
        return everything
    # Tiles cost tens of milliseconds, a streamed text encoder hundreds for every new prompt.
    for plan in (
        everything,
        MemoryPlan(d, d.blocks, 0, text_resident=True, tiles=True),
        MemoryPlan(d, d.blocks, 0, text_resident=False, tiles=False, ring=ring),
        MemoryPlan(d, d.blocks, 0, text_resident=False, tiles=True, ring=ring),
    ):
        if _fits(plan, budget, idle):
            return plan
    bare = MemoryPlan(d, 0, 0, text_resident=False, tiles=d.scratch < d.scratch_whole, ring=ring)
    if not _fits(bare, budget, None):
        raise ModelError(
            f"a budget of {_gb(budget)} is too small for this model: with every layer in host "
            f"memory it needs {_gb(bare.peak)} (" + _listed(bare) + "). Give --vram-budget at "
            "least that, or fewer or smaller adapter slots"
        )
    if idle is None:
        idle = max(bare.idle, round(IDLE_SHARE * budget))
    if bare.idle > idle:
        raise ModelError(
            f"--idle-vram {_gb(idle)} is too small for this model: between images it needs "
            f"{_gb(bare.idle)}"
        )
    resident = min(d.blocks, (idle - bare.idle) // d.block, (budget - bare.peak) // d.block)
    left = (budget - bare.peak) // d.block - resident
    return replace(bare, resident_blocks=resident, cached_blocks=min(left, d.blocks - resident))


def _fits(plan: MemoryPlan, budget: int, idle: int | None) -> bool:
    return plan.peak <= budget and (idle is None or plan.idle <= idle)


def _gb(nbytes: int) -> str:
    """Formats a size, rounded up so that it is enough as a budget."""
    if nbytes >= 10**9:
        return f"{math.ceil(nbytes / 1e8) / 10:.1f} GB"
    return f"{math.ceil(nbytes / 1e6)} MB"


def _listed(plan: MemoryPlan) -> str:
    return ", ".join(f"{name} {_gb(nbytes)}" for name, nbytes in plan.segments() if nbytes)
