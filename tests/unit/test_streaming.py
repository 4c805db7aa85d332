"""Streamed layers are yielded in order, whatever is cached and whatever else uses the ring."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

import torch
from hypothesis import given
from hypothesis import strategies as st

from inference_server.loading.memory_budget import RING_SLOTS
from inference_server.model.offload.layers import Layers, Streaming, load_layers, spread
from inference_server.model.offload.ring import Ring

CPU = torch.device("cpu")


def make(
    count: int, elements: int, streaming: Streaming | None, start: int
) -> Layers[torch.Tensor]:
    """A network of `count` layers; every byte of layer n is n + start."""

    def fill(index: int, buffer: torch.Tensor) -> None:
        buffer.fill_(start + index)

    return load_layers(
        count, elements, lambda b: b[:elements], fill=fill, device=CPU, streaming=streaming
    )


@st.composite
def networks(draw: st.DrawFn) -> tuple[int, list[int], list[int]]:
    """Number of layers, streamed layers, cached layers."""
    count = draw(st.integers(1, 12))
    streamed = spread(count, draw(st.integers(0, count)))
    cached = sorted(draw(st.sets(st.sampled_from(streamed)))) if streamed else []
    return count, streamed, cached


@given(networks(), networks(), st.integers(2, 4), st.lists(st.sampled_from("abABxf"), max_size=8))
def test_every_pass_sees_every_layer_in_order(
    a: tuple[int, list[int], list[int]],
    b: tuple[int, list[int], list[int]],
    slots: int,
    actions: list[str],
) -> None:
    ring = Ring(slots, 40, CPU)
    nets = {
        "a": (make(a[0], 10, Streaming(a[1], a[2], ring, True), 0), range(a[0])),
        "b": (make(b[0], 7, Streaming(b[1], b[2], ring, False), 100), range(100, 100 + b[0])),
    }
    for action in ["a", *actions, "b", "a"]:
        if action in "fx":
            for layers, _ in nets.values():
                layers.fetch_ahead() if action == "f" else layers.release_cache()
            continue
        layers, expected = nets[action.lower()]
        if action.isupper():
            layers.allocate_cache()
            assert layers.cache_allocated == bool({"a": a, "b": b}[action.lower()][2])
        # Each layer is read before the next is requested, as in the engine.
        assert [layer.unique().tolist() for layer in layers] == [[n] for n in expected]


@given(st.integers(1, 60), st.integers(0, 60))
def test_streamed_layers_are_spread_evenly_and_late(count: int, chosen: int) -> None:
    chosen = min(chosen, count)
    numbers = spread(count, chosen)
    assert len(numbers) == chosen == len(set(numbers))
    assert all(0 <= number < count for number in numbers)
    gaps = {later - sooner for sooner, later in pairwise(numbers)}
    assert not gaps or max(gaps) - min(gaps) <= 1
    if 0 < chosen < count:
        assert numbers[-1] == count - 1


@contextmanager
def counted(ring: Ring) -> Iterator[list[torch.Tensor]]:
    """Yields the sources of all copies started in the context."""
    started: list[torch.Tensor] = []
    original = ring.copy_stream.copy

    def copy(target: torch.Tensor, source: torch.Tensor, after: None) -> None:
        started.append(source)
        original(target, source, after)

    ring.copy_stream.copy = copy  # type: ignore[method-assign]
    yield started
    ring.copy_stream.copy = original  # type: ignore[method-assign]


def copies(layers: Layers[torch.Tensor], ring: Ring) -> int:
    """Counts the copies that one pass starts."""
    with counted(ring) as started:
        list(layers)
    return len(started)


def test_a_pass_copies_streamed_layers_once_and_cached_layers_never_again() -> None:
    ring = Ring(2, 40, CPU)
    layers = make(12, 10, Streaming(spread(12, 8), spread(12, 8)[:3], ring, True), 0)
    list(layers)
    # Each pass ends with fetching the first layer of the next.
    assert copies(layers, ring) == 8
    layers.allocate_cache()
    copies(layers, ring)
    assert copies(layers, ring) == 5
    layers.release_cache()
    copies(layers, ring)
    assert copies(layers, ring) == 8


def test_interrupted_passes_leave_the_ring_usable() -> None:
    ring = Ring(4, 40, CPU)
    nets = [make(9, 10, Streaming(range(9), (), ring, True), start) for start in (0, 100)]
    held = []
    for _ in range(20):
        for layers in nets:
            iterator = iter(layers)
            next(iterator)
            next(iterator)
            # Kept alive, as by an exception's traceback.
            held.append(iterator)
        for start, layers in zip((0, 100), nets, strict=True):
            assert [int(layer[0]) for layer in layers] == list(range(start, start + 9))


def test_two_alternating_networks_do_not_evict_each_others_layers() -> None:
    ring = Ring(RING_SLOTS, 40, CPU)
    blocks = make(60, 10, Streaming(range(60), (), ring, True), 0)
    texts = make(28, 10, Streaming(range(28), (), ring, False), 100)
    list(blocks)
    with counted(ring) as started:
        beside = iter(texts)
        for number, _ in enumerate(blocks):
            if number < 28:
                next(beside)
        list(beside)
    # Each once, and the first block of the next pass.
    assert len(started) <= 60 + 28 + 1


def test_layers_fetched_ahead_are_not_copied_again() -> None:
    ring = Ring(4, 40, CPU)
    layers = make(12, 10, Streaming(range(12), (), ring, False), 0)
    with counted(ring) as started:
        layers.fetch_ahead()
        layers.fetch_ahead()
    assert len(started) == 4
    assert copies(layers, ring) == 12 - 4
