"""How a budget of device memory is divided, once, at start.

Owns the arithmetic: what is always there, what is there while images are generated, and how many
layers are left for host memory. Knows sizes only; allocates nothing. No segment borrows from
another, so a plan that fits at start fits for ever.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

from inference_server.errors import ModelError

RING_SLOTS = 4
"""One is read while another is filled, for the blocks and for a text encoder's layers in between.
With three each side evicts what the other has fetched ahead: 143 copies instead of 88."""

SLOTS, HEADROOM, SCRATCH = "adapter slots", "headroom", "scratch"
"""Names of the segments whose use changes."""

IDLE_SHARE = 0.6
"""Of the budget, while no image is generated; the mission's 11.2 of 18.7 GB."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the parts of a model need, in bytes."""

    always: int
    """The runtime's own memory, and weights that never move: edges, tables, VAE."""
    slots: int
    """The adapter arena."""
    scratch: int
    """Activations, or the decode in tiles, whichever is more."""
    scratch_whole: int
    """The same with the decode in one piece."""
    block: int
    blocks: int
    text_layer: int
    text_layers: int


class Segment(NamedTuple):
    """One stretch of device memory."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What lies where. Bytes on the device."""

    demand: Demand
    resident_blocks: int
    """Always on the device."""
    staying_blocks: int
    """On the device while images are generated."""
    text_resident: bool
    tiles: bool
    """Whether images are decoded in tiles."""
    ring: int = 0

    @property
    def scratch(self) -> int:
        """While images are generated."""
        return self.demand.scratch if self.tiles else self.demand.scratch_whole

    @property
    def streamed_blocks(self) -> int:
        """In host memory; the staying ones among them."""
        return self.demand.blocks - self.resident_blocks

    @property
    def headroom(self) -> int:
        """Bytes of the staying blocks."""
        return self.staying_blocks * self.demand.block

    def segments(self) -> Iterator[Segment]:
        """Every segment."""
        d = self.demand
        text = d.text_layers * d.text_layer if self.text_resident else 0
        yield Segment("runtime, edges, tables, VAE, prompts", d.always)
        yield Segment("resident weights", self.resident_blocks * d.block + text)
        yield Segment("streaming ring", self.ring)
        yield Segment(SLOTS, d.slots)
        yield Segment(HEADROOM, self.headroom)
        yield Segment(SCRATCH, self.scratch)

    @property
    def host(self) -> int:
        """Bytes of the layers that wait in host memory."""
        d = self.demand
        text = 0 if self.text_resident else d.text_layers * d.text_layer
        return self.streamed_blocks * d.block + text

    @property
    def peak(self) -> int:
        """While images are generated."""
        return sum(segment.nbytes for segment in self.segments())

    @property
    def idle(self) -> int:
        """Between images."""
        return self.peak - self.headroom - self.scratch


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
    return replace(bare, resident_blocks=resident, staying_blocks=min(left, d.blocks - resident))


def _fits(plan: MemoryPlan, budget: int, idle: int | None) -> bool:
    return plan.peak <= budget and (idle is None or plan.idle <= idle)


def _gb(nbytes: int) -> str:
    """Rounded up: whoever gives what is named is not refused again."""
    if nbytes >= 10**9:
        return f"{math.ceil(nbytes / 1e8) / 10:.1f} GB"
    return f"{math.ceil(nbytes / 1e6)} MB"


def _listed(plan: MemoryPlan) -> str:
    return ", ".join(f"{name} {_gb(nbytes)}" for name, nbytes in plan.segments() if nbytes)
