"""The division of device memory that a model was loaded under, in bytes.

`loading.memory_budget` computes it once, at start. No segment borrows from another, so a plan that
fits at start fits for as long as the process lives.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SLOTS, BLOCK_CACHE, SCRATCH = "adapter slots", "block cache", "scratch"
"""Names of the segments whose use changes."""


@dataclass(frozen=True, slots=True)
class Demand:
    """The memory that a model needs, in bytes; `blocks` and `text_layers` are counts."""

    always: int
    """The runtime's own memory, and weights that never move: edges, tables, VAE."""
    slots: int
    """The adapter arena."""
    scratch: int
    """Activations, or the decode in tiles, whichever is more."""
    scratch_whole: int
    """Activations, or the decode in one piece, whichever is more."""
    block: int
    blocks: int
    text_layer: int
    text_layers: int


class PlannedSegment(NamedTuple):
    """One stretch of device memory, in bytes."""

    name: str
    nbytes: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Placement of a model's parts in memory. All sizes are bytes on the device, except `host`."""

    demand: Demand
    resident_blocks: int
    """Blocks that are always on the device."""
    cached_blocks: int
    """Streamed blocks that stay on the device while images are generated."""
    resident_text_layers: int
    """Layers of the text encoder that are always on the device; the others are streamed."""
    tiles: bool
    """Images are decoded in tiles."""
    ring: int = 0

    @property
    def scratch(self) -> int:
        """Scratch memory, used while images are generated."""
        return self.demand.scratch if self.tiles else self.demand.scratch_whole

    @property
    def streamed_blocks(self) -> int:
        """Blocks in host memory, the cached ones included."""
        return self.demand.blocks - self.resident_blocks

    @property
    def streamed_text_layers(self) -> int:
        """Layers of the text encoder in host memory."""
        return self.demand.text_layers - self.resident_text_layers

    @property
    def block_cache(self) -> int:
        """Size of the cached blocks."""
        return self.cached_blocks * self.demand.block

    def segments(self) -> Iterator[PlannedSegment]:
        """Yields every segment of device memory."""
        d = self.demand
        blocks = f"blocks, {self.resident_blocks} of {d.blocks}"
        text = f"text encoder, {self.resident_text_layers} of {d.text_layers} layers"
        yield PlannedSegment("runtime, edges, tables, VAE, prompts", d.always)
        yield PlannedSegment(blocks, self.resident_blocks * d.block)
        yield PlannedSegment(text, self.resident_text_layers * d.text_layer)
        yield PlannedSegment("streaming ring", self.ring)
        yield PlannedSegment(SLOTS, d.slots)
        yield PlannedSegment(BLOCK_CACHE, self.block_cache)
        yield PlannedSegment(SCRATCH, self.scratch)

    @property
    def host(self) -> int:
        """Size of the streamed layers, in host memory."""
        d = self.demand
        return self.streamed_blocks * d.block + self.streamed_text_layers * d.text_layer

    @property
    def peak(self) -> int:
        """Device memory while images are generated."""
        return sum(segment.nbytes for segment in self.segments())

    @property
    def idle(self) -> int:
        """Device memory between images."""
        return self.peak - self.block_cache - self.scratch
