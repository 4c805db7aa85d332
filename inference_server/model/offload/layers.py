"""A network's layers, on the device or streamed from host memory ahead of the compute.

A layer is a flat buffer of bytes; its network supplies the view. Nothing is copied back, because
weights do not change. Not thread-safe: the device thread makes all calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from inference_server.model.offload.block_cache import BlockCache
from inference_server.model.offload.pinned_memory import host_memory
from inference_server.model.offload.ring import Ring

W = TypeVar("W")
"""A layer's weights as its network reads them."""
W_co = TypeVar("W_co", covariant=True)


class Layers(Protocol[W_co]):
    """A network's layers in order; iterate once per pass."""

    def __iter__(self) -> Iterator[W_co]:
        """Yields each layer's weights; launch all work with one before asking for the next."""

    @property
    def cache_allocated(self) -> bool:
        """True while the memory of the block cache is allocated."""

    def allocate_cache(self) -> None:
        """Allocates the block cache; call before an image."""

    def release_cache(self) -> None:
        """Frees the block cache; call after the last image, when all launched work is done."""

    def fetch_ahead(self) -> None:
        """Starts copying as many of the first layers as the ring has slots."""


class ResidentLayers(Generic[W]):
    """Layers that are all on the device; they have no block cache."""

    def __init__(self, layers: Sequence[Tensor], view: Callable[[Tensor], W]) -> None:
        self._views = [view(layer) for layer in layers]
        self.cache_allocated = False

    def __iter__(self) -> Iterator[W]:
        return iter(self._views)

    def allocate_cache(self) -> None:
        """Does nothing."""

    def release_cache(self) -> None:
        """Does nothing."""

    def fetch_ahead(self) -> None:
        """Does nothing."""


class Streaming(NamedTuple):
    """Placement of a network's layers that are not resident."""

    streamed: Sequence[int]
    """Indices of the layers in host memory."""
    cached: Sequence[int]
    """Those of them that the block cache keeps while it is allocated."""
    ring: Ring
    repeats: bool
    """One pass follows another, as denoising steps do: the last layer fetches the first again."""


class StreamedLayers(Generic[W]):
    """Layers of which some are in host memory.

    While the compute uses one layer, the next streamed one is copied; after the last, the first of
    the next pass, if passes repeat.

    Args:
        layers: each layer's flat buffer, in order: on the device, or pinned in host memory.
        view: a layer's buffer as its weights.
        streaming: which layers are in host memory, and the ring.
        device: the device.
    """

    def __init__(
        self,
        layers: Sequence[Tensor],
        view: Callable[[Tensor], W],
        streaming: Streaming,
        device: torch.device,
    ) -> None:
        streamed, cached, ring, repeats = streaming
        self._layers = layers
        self._streamed = streamed
        self._ring = ring
        self._ring_views = ring.views(view)
        self._cache = BlockCache(ring.copy_stream, [layers[i] for i in cached], view, device)
        self._slot: int | None = None
        """The slot that is being read."""
        self._cache_index = {index: place for place, index in enumerate(cached)}
        self._following = dict(pairwise(streamed))
        if repeats:
            self._following[streamed[-1]] = streamed[0]
        self._resident = {
            index: view(layer) for index, layer in enumerate(layers) if index not in streamed
        }

    def __iter__(self) -> Iterator[W]:
        self._leave()  # the slot of an earlier pass that failed
        self._fetch(self._streamed[0])
        for index in range(len(self._layers)):
            if index in self._resident:
                yield self._resident[index]
            elif self._is_cached(index):
                weights = self._cache.enter(self._cache_index[index])
                self._fetch(self._following.get(index))
                yield weights
            else:
                slot = self._slot = self._ring.fetch(self._layers[index])
                self._ring.enter(slot)
                self._fetch(self._following.get(index))
                yield self._ring_views[slot]
                self._leave()

    @property
    def cache_allocated(self) -> bool:
        """See `Layers`."""
        return self._cache.allocated

    def allocate_cache(self) -> None:
        """See `Layers`."""
        self._cache.allocate()

    def release_cache(self) -> None:
        """See `Layers`."""
        self._cache.release()

    def fetch_ahead(self) -> None:
        """See `Layers`."""
        for index in self._streamed[: self._ring.slots]:
            self._fetch(index)

    def _leave(self) -> None:
        if self._slot is not None:
            self._ring.leave(self._slot)
            self._slot = None

    def _is_cached(self, index: int) -> bool:
        return self._cache.allocated and index in self._cache_index

    def _fetch(self, index: int | None) -> None:
        if index is None:
            return
        if self._is_cached(index):
            self._cache.fetch(self._cache_index[index])
        else:
            self._ring.fetch(self._layers[index])


def load_layers(
    count: int,
    nbytes: int,
    view: Callable[[Tensor], W],
    *,
    fill: Callable[[int, Tensor], None],
    device: torch.device,
    streaming: Streaming | None,
) -> Layers[W]:
    """Allocates and fills a network's layers.

    Args:
        count: number of layers.
        nbytes: size of a layer's flat buffer.
        view: a layer's buffer as its weights.
        fill: reads layer `index` into its buffer, which is all zeros.
        device: the device.
        streaming: layers to keep in pinned host memory; None keeps all on the device.
    """
    streamed = set(streaming.streamed) if streaming else set()
    resident = iter(torch.zeros(count - len(streamed), nbytes, dtype=torch.uint8, device=device))
    on_host = iter(host_memory(len(streamed) * nbytes, device).view(len(streamed), nbytes))
    layers = [next(on_host if index in streamed else resident) for index in range(count)]
    for index, layer in enumerate(layers):
        fill(index, layer)
    if streaming is None or not streamed:
        return ResidentLayers(layers, view)
    return StreamedLayers(layers, view, streaming, device)


def spread(count: int, chosen: int) -> list[int]:
    """Returns `chosen` of the numbers below `count`, evenly spaced and each as late as possible.

    The compute of earlier layers hides a streamed layer's copy, so the last layer may be streamed.
    """
    return [-(-count * (n + 1) // chosen) - 1 for n in range(chosen)]
