"""Divides a budget of device memory once, at start.

Computes what stays on the device, what is there while images are generated, and how many layers
wait in host memory. No segment borrows from another, so a plan that fits at start keeps fitting.
"""

from __future__ import annotations

import math
from dataclasses import replace

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.errors import ModelError

NETWORK_SLOTS = 2
"""Slots of the ring for each network whose layers pass through it: one is read while another is
filled."""

RING_SLOTS = 2 * NETWORK_SLOTS
"""For blocks and the text encoder's layers by turns. With three, each side evicts what the other
has prefetched: 143 copies instead of 88."""

IDLE_SHARE = 0.6
"""Share of the budget that is used between images where blocks are streamed: 11.2 of 18.7 GB."""


def make_plan(demand: Demand, budget: int | None, idle: int | None = None) -> MemoryPlan:
    """Returns the plan that streams the least.

    While images are generated, room goes to blocks first: a block is read in every step, a layer of
    the text encoder once for a new prompt and never for one in the prompt cache, so in four steps a
    resident block saves four copies or more and a layer at most one. What all blocks leave goes to
    layers. Such a layer comes before a block where `idle` limits both: the block cache holds that
    block from the first image after a pause on, and nothing else would save the layer's copy for
    the prompts that follow. What this costs is the first image after a pause with a cached prompt.

    Args:
        demand: the sizes of the model's parts.
        budget: maximum bytes while images are generated; None: no limit.
        idle: maximum bytes between images; None: the budget, or IDLE_SHARE of it if blocks are
            streamed.

    Raises:
        ModelError: no plan fits; the message gives the smallest budget that would.
    """
    d = demand
    everything = MemoryPlan(d, d.blocks, 0, d.text_layers, tiles=False)
    if budget is None:
        return everything
    for plan in (everything, replace(everything, tiles=True)):
        if _fits(plan, budget, idle):
            return plan
    slot = max(d.block, d.text_layer)
    streamed = MemoryPlan(d, 0, 0, 0, tiles=False, ring=NETWORK_SLOTS * slot)
    # Tiles cost milliseconds for each image, copies of blocks hundreds.
    for bare in (streamed, replace(streamed, tiles=True)):
        if _fits(bare, budget, idle):
            plan = _filled(bare, budget, budget if idle is None else idle)
            # With all blocks on the device, only the text encoder's layers go through the ring.
            if plan.cached_blocks == plan.streamed_blocks:
                return plan
    tiles = d.scratch < d.scratch_whole
    bare = replace(streamed, tiles=tiles, ring=RING_SLOTS * slot)
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
    return _filled(bare, budget, idle)


def _filled(bare: MemoryPlan, budget: int, idle: int) -> MemoryPlan:
    """Returns a plan without layers on the device, filled up with layers to both limits."""
    d, room, idle_room = bare.demand, budget - bare.peak, idle - bare.idle
    blocks = min(d.blocks, room // d.block)
    layers = min(room - blocks * d.block, idle_room) // d.text_layer
    layers = min(d.text_layers, layers)
    resident = min(blocks, (idle_room - layers * d.text_layer) // d.block)
    return replace(
        bare,
        resident_blocks=resident,
        cached_blocks=blocks - resident,
        resident_text_layers=layers,
    )


def _fits(plan: MemoryPlan, budget: int, idle: int | None) -> bool:
    return plan.peak <= budget and (idle is None or plan.idle <= idle)


def _gb(nbytes: int) -> str:
    """Formats a size, rounded up so that it is enough as a budget."""
    if nbytes >= 10**9:
        return f"{math.ceil(nbytes / 1e8) / 10:.1f} GB"
    return f"{math.ceil(nbytes / 1e6)} MB"


def _listed(plan: MemoryPlan) -> str:
    return ", ".join(f"{name} {_gb(nbytes)}" for name, nbytes in plan.segments() if nbytes)
