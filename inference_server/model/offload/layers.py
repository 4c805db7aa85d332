"""Layers that take turns on the device: copied from host memory ahead of the compute.

Owns which layers stream and their order; the ring they share is `ring`'s, the memory in which some
stay is `headroom`'s. A layer is
a flat buffer of bytes here; what it means is the client's view of it. Nothing is ever copied back:
weights do not change. Only the device thread calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Generic, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from inference_server.model.offload.block_cache import Headroom
from inference_server.model.offload.pinned_memory import host_memory
from inference_server.model.offload.ring import Ring

W = TypeVar("W")
"""A layer's weights as its network sees them."""
W_co = TypeVar("W_co", covariant=True)


class Layers(Protocol[W_co]):
    """A network's layers in order; iterate once for each pass."""

    def __iter__(self) -> Iterator[W_co]:
        """Each layer when its turn comes."""

    @property
    def headroom_taken(self) -> bool:
        """Whether memory is taken that only generating needs."""

    def take_headroom(self) -> None:
        """Before an image."""

    def give_back_headroom(self) -> None:
        """After the last one."""

    def fetch_ahead(self) -> None:
        """Begins to copy as many of the first layers as there is room for: a pass comes soon."""


class ResidentLayers(Generic[W]):
    """Layers that all live on the device."""

    def __init__(self, layers: Sequence[Tensor], view: Callable[[Tensor], W]) -> None:
        self._views = [view(layer) for layer in layers]
        self.headroom_taken = False

    def __iter__(self) -> Iterator[W]:
        return iter(self._views)

    def take_headroom(self) -> None:
        """They need none."""

    def give_back_headroom(self) -> None:
        """They took none."""

    def fetch_ahead(self) -> None:
        """They are there."""


class StreamedLayers(Generic[W]):
    """A network's layers in order; iterate once for each pass.

    While the consumer computes with one, the next streamed one is on its way; after the last, the
    first of the next pass, if passes repeat. Computation with a layer must be begun before the next
    is asked for.

    Args:
        layers: each flat buffer, in order: on the device, or pinned in host memory.
        view: of one of them.
        streamed: numbers of the layers that lie in host memory.
        stay: those of them that stay in the headroom while it is taken.
        ring: what the others take turns in.
        repeats: whether one pass follows another.
        device: where the compute is.
    """

    def __init__(
        self,
        layers: Sequence[Tensor],
        view: Callable[[Tensor], W],
        streamed: Sequence[int],
        stay: Sequence[int],
        ring: Ring,
        repeats: bool,
        device: torch.device,
    ) -> None:
        self._layers = layers
        self._streamed = streamed
        self._ring = ring
        self._ring_views = ring.views(view)
        self._headroom = Headroom(ring.lane, [layers[index] for index in stay], view, device)
        self._slot: int | None = None
        """The slot that is read now."""
        self._place = {index: place for place, index in enumerate(stay)}
        self._following = dict(pairwise(streamed))
        if repeats:
            self._following[streamed[-1]] = streamed[0]
        self._resident = {
            index: view(layer) for index, layer in enumerate(layers) if index not in streamed
        }

    def __iter__(self) -> Iterator[W]:
        self._leave()  # what a pass that failed has left behind
        self._fetch(self._streamed[0])
        for index in range(len(self._layers)):
            if index in self._resident:
                yield self._resident[index]
            elif self._stays(index):
                weights = self._headroom.enter(self._place[index])
                self._fetch(self._following.get(index))
                yield weights
            else:
                slot = self._slot = self._ring.fetch(self._layers[index])
                self._ring.enter(slot)
                self._fetch(self._following.get(index))
                yield self._ring_views[slot]
                self._leave()

    @property
    def headroom_taken(self) -> bool:
        """See `Layers`."""
        return self._headroom.taken

    def take_headroom(self) -> None:
        """See `Layers`."""
        self._headroom.take()

    def give_back_headroom(self) -> None:
        """See `Layers`."""
        self._headroom.give_back()

    def fetch_ahead(self) -> None:
        """See `Layers`."""
        for index in self._streamed[: self._ring.slots]:
            self._fetch(index)

    def _leave(self) -> None:
        if self._slot is not None:
            self._ring.leave(self._slot)
            self._slot = None

    def _stays(self, index: int) -> bool:
        return self._headroom.taken and index in self._place

    def _fetch(self, index: int | None) -> None:
        if index is None:
            return
        if self._stays(index):
            self._headroom.fetch(self._place[index])
        else:
            self._ring.fetch(self._layers[index])


class Streaming(NamedTuple):
    """Which layers of a network do not live on the device."""

    streamed: Sequence[int]
    """In host memory."""
    stay: Sequence[int]
    """Those of them that stay in the headroom while it is taken."""
    ring: Ring
    repeats: bool
    """Whether one pass follows another, as steps do."""


def load_layers(
    count: int,
    nbytes: int,
    view: Callable[[Tensor], W],
    fill: Callable[[int, Tensor], None],
    device: torch.device,
    streaming: Streaming | None,
) -> Layers[W]:
    """A network's layers, filled, on the device or pinned in host memory.

    Args:
        count: of layers.
        nbytes: of a layer's flat buffer.
        view: of one of them.
        fill: reads layer `index` into its buffer, which is all zeros.
        device: where the compute is.
        streaming: None keeps everything on the device.
    """
    streamed = set(streaming.streamed) if streaming else set()
    there = iter(torch.zeros(count - len(streamed), nbytes, dtype=torch.uint8, device=device))
    waiting = iter(host_memory(len(streamed) * nbytes, device).view(len(streamed), nbytes))
    layers = [next(waiting if index in streamed else there) for index in range(count)]
    for index, layer in enumerate(layers):
        fill(index, layer)
    if streaming is None or not streamed:
        return ResidentLayers(layers, view)
    return StreamedLayers(layers, view, *streaming, device)


def spread(count: int, chosen: int) -> list[int]:
    """`chosen` of the numbers below `count`, as evenly as can be, the first as late as can be.

    A streamed layer is hidden behind the compute of those before it; the last of all may be one.
    """
    return [-(-count * (n + 1) // chosen) - 1 for n in range(chosen)]
