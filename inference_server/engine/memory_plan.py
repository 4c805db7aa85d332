"""The division of device memory that a model was loaded under, in bytes.

`inference_server.loading.memory_plan` computes it once, at start. No segment borrows from another,
so a plan that fits at start fits for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SLOTS, HEADROOM, SCRATCH = "adapter slots", "headroom", "scratch"
"""Names of the segments whose use changes."""


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
