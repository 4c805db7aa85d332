"""A ring of slots on the device, filled by copies that run ahead of the compute.

Owns the slots and what waits for what. Knows nothing of layers: bytes go in, and whoever asks again
for bytes that still lie there gets them without a copy. Only the device thread calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

W = TypeVar("W")
"""What a slot's bytes are seen as."""


class Lane:
    """Copies to the device beside its compute; on a CPU they are plain copies.

    Args:
        device: where to.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, target: Tensor, source: Tensor, after: torch.cuda.Event | None) -> None:
        """Begins to copy `source` to the front of `target` once `after` has happened."""
        front = target[: len(source)]
        if self._stream is None:
            front.copy_(source)
            return
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            front.copy_(source, non_blocking=True)

    def arrived(self) -> torch.cuda.Event | None:
        """Happens when everything copied so far is there."""
        return None if self._stream is None else self._stream.record_event()

    def computed(self) -> torch.cuda.Event | None:
        """Happens when the compute begun so far is done."""
        return (
            None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
        )

    def wait(self, event: torch.cuda.Event | None) -> None:
        """The compute that follows waits for `event`; the client does not."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)


class _Slot:
    """A place on the device that holds one layer after another."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.holds: Tensor | None = None
        """The host buffer whose copy lies here, or is on its way."""
        self.arrived: torch.cuda.Event | None = None
        self.left: torch.cuda.Event | None = None
        """When the compute that read it is done."""
        self.busy = False
        self.fresh = False
        """Fetched and not read yet: taken for something else only if nothing else is left."""
        self.turn = 0
        """When it was last taken or left; the smallest goes first."""


class Ring:
    """Slots on the device, shared by everything that streams.

    Args:
        slots: at least two: one is read while another is filled.
        nbytes: of a slot; the largest layer's.
        device: where.
    """

    def __init__(self, slots: int, nbytes: int, device: torch.device) -> None:
        self.lane = Lane(device)
        arena = torch.empty(slots, nbytes, dtype=torch.uint8, device=device)
        self._slots = [_Slot(buffer) for buffer in arena]
        # What was computed in this memory before must be done before the first copy.
        for slot in self._slots:
            slot.left = self.lane.computed()
        self._turn = 0

    @property
    def slots(self) -> int:
        """How many there are."""
        return len(self._slots)

    def fetch(self, source: Tensor) -> int:
        """The slot that holds a layer, or will; where none does yet, the one longest read."""
        for index, slot in enumerate(self._slots):
            if slot.holds is source:
                return index
        index = min(
            (i for i, slot in enumerate(self._slots) if not slot.busy),
            key=lambda i: (self._slots[i].fresh, self._slots[i].turn),
        )
        slot = self._slots[index]
        self.lane.copy(slot.buffer, source, slot.left)
        slot.holds, slot.arrived, slot.fresh = source, self.lane.arrived(), True
        self._touch(slot)
        return index

    def enter(self, index: int) -> None:
        """What is computed from here on may read the slot."""
        slot = self._slots[index]
        self.lane.wait(slot.arrived)
        slot.busy, slot.fresh = True, False

    def leave(self, index: int) -> None:
        """Nothing computed from here on reads the slot."""
        slot = self._slots[index]
        slot.left, slot.busy = self.lane.computed(), False
        self._touch(slot)

    def views(self, view: Callable[[Tensor], W]) -> list[W]:
        """Every slot as a layer."""
        return [view(slot.buffer) for slot in self._slots]

    def _touch(self, slot: _Slot) -> None:
        self._turn += 1
        slot.turn = self._turn
