"""Device memory that keeps some streamed layers while images are generated."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor

from inference_server.model.offload.ring import CopyStream

W = TypeVar("W")
"""A layer's weights as its network reads them."""


class BlockCache(Generic[W]):
    """Keeps streamed layers on the device after their first use, until it is released.

    Args:
        copy_stream: copies the layers.
        layers: host buffers of the layers that are cached, all of one size.
        view: a layer's buffer as its weights.
        device: the device.
    """

    def __init__(
        self,
        copy_stream: CopyStream,
        layers: Sequence[Tensor],
        view: Callable[[Tensor], W],
        device: torch.device,
    ) -> None:
        self._copy_stream, self._layers, self._view = copy_stream, layers, view
        self._device = device
        self._arena: Tensor | None = None
        self._views: list[W] = []
        self._copied: dict[int, torch.cuda.Event | None] = {}

    @property
    def allocated(self) -> bool:
        """True while the cache's memory is allocated."""
        return self._arena is not None

    def allocate(self) -> None:
        """Allocates the cache's memory unless it already is; call before an image."""
        if self._arena is not None or not self._layers:
            return
        shape = (len(self._layers), len(self._layers[0]))
        self._arena = torch.empty(shape, dtype=torch.uint8, device=self._device)
        self._views = [self._view(row) for row in self._arena]

    def release(self) -> None:
        """Frees the cache's memory; call after all launched work is done."""
        self._arena, self._views = None, []
        self._copied.clear()

    def fetch(self, index: int) -> None:
        """Starts copying a layer unless it is cached or on its way."""
        if index not in self._copied and self._arena is not None:
            # Compute that used this memory before it was allocated must finish first.
            after = self._copy_stream.computed() if not self._copied else None
            self._copy_stream.copy(self._arena[index], self._layers[index], after)
            self._copied[index] = self._copy_stream.copied()

    def enter(self, index: int) -> W:
        """Returns a layer's weights, which the compute launched from now on may read."""
        self.fetch(index)
        self._copy_stream.wait(self._copied[index])
        return self._views[index]
