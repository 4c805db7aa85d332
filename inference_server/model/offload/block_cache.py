"""Device memory that is idle between images. Owns what lies in it and since when."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from inference_server.model.offload.ring import Lane

W = TypeVar("W")
"""A layer's weights as its network sees them."""


class Headroom(Generic[W]):
    """Device memory that is idle between images: streamed layers stay in it while one is generated.

    Args:
        lane: copies.
        layers: the host buffers of the layers that may stay.
        view: of one of them.
        device: where.
    """

    def __init__(
        self,
        lane: Lane,
        layers: Sequence[Tensor],
        view: Callable[[Tensor], W],
        device: torch.device,
    ) -> None:
        self._lane, self._layers, self._view, self._device = lane, layers, view, device
        self._arena: Tensor | None = None
        self._views: list[W] = []
        self._arrived: dict[int, torch.cuda.Event | None] = {}

    @property
    def taken(self) -> bool:
        """Whether it is."""
        return self._arena is not None

    def take(self) -> None:
        """Before an image; harmless if it is taken already."""
        if self._arena is not None or not self._layers:
            return
        shape = (len(self._layers), len(self._layers[0]))
        self._arena = torch.empty(shape, dtype=torch.uint8, device=self._device)
        self._views = [self._view(row) for row in self._arena]

    def give_back(self) -> None:
        """After the last image, and after all that was begun is done."""
        self._arena, self._views = None, []
        self._arrived.clear()

    def fetch(self, index: int) -> None:
        """Begins to copy a layer, unless it was already."""
        if index not in self._arrived and self._arena is not None:
            # What was computed in this memory before it was taken must be done.
            after = self._lane.computed() if not self._arrived else None
            self._lane.copy(self._arena[index], self._layers[index], after)
            self._arrived[index] = self._lane.arrived()

    def enter(self, index: int) -> W:
        """The layer's weights; what is computed from here on may read them."""
        self.fetch(index)
        self._lane.wait(self._arrived[index])
        return self._views[index]
