"""How a budget of device memory is divided, once, at start.

Owns the arithmetic: what is always there, what is there while images are generated, and how many
layers are left for host memory. Knows sizes only; allocates nothing. No segment borrows from
another, so a plan that fits at start fits for ever.
"""

from __future__ import annotations

import math
from dataclasses import replace

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.errors import ModelError

RING_SLOTS = 4
"""One is read while another is filled, for the blocks and for a text encoder's layers in between.
With three each side evicts what the other has fetched ahead: 143 copies instead of 88."""

IDLE_SHARE = 0.6
"""Of the budget, while no image is generated; the mission's 11.2 of 18.7 GB."""


def make_plan(demand: Demand, budget: int | None, idle: int | None = None) -> MemoryPlan:
    """The plan that leaves the least to stream.

    Args:
        demand: of the model.
        budget: most bytes while images are generated; None: as much as it takes.
        idle: most bytes between them; None: the budget, or IDLE_SHARE of it if blocks must stream.

    Raises:
        ModelError: nothing fits; the message names the smallest budget that does.
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
    """Rounded up: whoever gives what is named is not refused again."""
    if nbytes >= 10**9:
        return f"{math.ceil(nbytes / 1e8) / 10:.1f} GB"
    return f"{math.ceil(nbytes / 1e6)} MB"


def _listed(plan: MemoryPlan) -> str:
    return ", ".join(f"{name} {_gb(nbytes)}" for name, nbytes in plan.segments() if nbytes)
