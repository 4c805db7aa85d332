"""A ring of device buffers, filled by copies that run ahead of the compute.

The ring moves bytes and does not know about layers: fetching a buffer that still lies in a slot
costs no copy. Not thread-safe: the device thread makes all calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

W = TypeVar("W")
"""Type of a layer's weights: views into the bytes of a slot."""


class CopyStream:
    """Host-to-device copies on a CUDA stream of their own; synchronous on a CPU."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None

    def copy(self, target: Tensor, source: Tensor, after: torch.cuda.Event | None) -> None:
        """Starts copying `source` to the front of `target` once `after` has happened."""
        front = target[: len(source)]
        if self._stream is None:
            front.copy_(source)
            return
        with torch.cuda.stream(self._stream):
            if after is not None:
                self._stream.wait_event(after)
            front.copy_(source, non_blocking=True)

    def copied(self) -> torch.cuda.Event | None:
        """Returns an event that happens when all copies started so far are done."""
        return None if self._stream is None else self._stream.record_event()

    def computed(self) -> torch.cuda.Event | None:
        """Returns an event that happens when the compute launched so far is done."""
        return (
            None if self._stream is None else torch.cuda.current_stream(self._device).record_event()
        )

    def wait(self, event: torch.cuda.Event | None) -> None:
        """Makes the compute launched from now on wait for `event`; the host does not wait."""
        if event is not None:
            torch.cuda.current_stream(self._device).wait_event(event)


class _Slot:
    """A device buffer that holds one layer after another."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.source: Tensor | None = None
        """The host buffer whose copy lies here or is on its way."""
        self.copied: torch.cuda.Event | None = None
        self.left: torch.cuda.Event | None = None
        """Happens when the compute that read the slot is done."""
        self.busy = False
        self.unread = False
        """Fetched and not entered yet; overwritten only if every other slot is unread or busy."""
        self.last_use = 0
        """Counter value when it was last fetched or left; the smallest is overwritten first."""


class Ring:
    """Device buffers shared by everything that streams.

    Args:
        slots: at least two: one is read while another is filled.
        nbytes: size of a slot; that of the largest layer.
        device: the device.
    """

    def __init__(self, slots: int, nbytes: int, device: torch.device) -> None:
        self.copy_stream = CopyStream(device)
        arena = torch.empty(slots, nbytes, dtype=torch.uint8, device=device)
        self._slots = [_Slot(buffer) for buffer in arena]
        # Earlier compute may still use this memory; the first copies wait for it.
        for slot in self._slots:
            slot.left = self.copy_stream.computed()
        self._uses = 0

    @property
    def slots(self) -> int:
        """Number of slots."""
        return len(self._slots)

    def fetch(self, source: Tensor) -> int:
        """Returns the slot that holds a layer, after starting its copy if none does yet.

        The copy overwrites the least recently used slot that is not busy.
        """
        for index, slot in enumerate(self._slots):
            if slot.source is source:
                return index
        index = min(
            (i for i, slot in enumerate(self._slots) if not slot.busy),
            key=lambda i: (self._slots[i].unread, self._slots[i].last_use),
        )
        slot = self._slots[index]
        self.copy_stream.copy(slot.buffer, source, slot.left)
        slot.source, slot.copied, slot.unread = source, self.copy_stream.copied(), True
        self._touch(slot)
        return index

    def enter(self, index: int) -> None:
        """Lets the compute launched from now on read the slot."""
        slot = self._slots[index]
        self.copy_stream.wait(slot.copied)
        slot.busy, slot.unread = True, False

    def leave(self, index: int) -> None:
        """Declares that no compute launched from now on reads the slot."""
        slot = self._slots[index]
        slot.left, slot.busy = self.copy_stream.computed(), False
        self._touch(slot)

    def views(self, view: Callable[[Tensor], W]) -> list[W]:
        """Returns every slot viewed as a layer."""
        return [view(slot.buffer) for slot in self._slots]

    def _touch(self, slot: _Slot) -> None:
        self._uses += 1
        slot.last_use = self._uses
