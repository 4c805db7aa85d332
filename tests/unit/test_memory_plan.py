"""The memory plan keeps its budget and uses all of it; errors name the smallest budget."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.errors import ModelError
from inference_server.loading.memory_budget import NETWORK_SLOTS, RING_SLOTS, make_plan

FULL_SIZE = Demand(
    always=1_441_000_000,
    slots=735_000_000,
    scratch=600_000_000,
    scratch_whole=900_000_000,
    block=453_096_448,
    blocks=60,
    text_layer=466_115_584,
    text_layers=28,
)
"""Qwen-Image in bf16 with three adapter slots of rank 16 (benchmarks.full_size.random_model)."""
FULL_SIZE_FP8 = replace(FULL_SIZE, block=226_825_216)

demands = st.builds(
    Demand,
    always=st.integers(0, 2000),
    slots=st.integers(0, 500),
    scratch=st.integers(0, 500),
    scratch_whole=st.integers(500, 1000),
    block=st.integers(1, 100),
    blocks=st.integers(1, 60),
    text_layer=st.integers(1, 100),
    text_layers=st.integers(1, 28),
)


def smallest(demand: Demand) -> int:
    """Finds the smallest budget by bisection."""
    low, high = 0, make_plan(demand, None).peak + 200
    while low < high:
        middle = (low + high) // 2
        try:
            make_plan(demand, middle)
            high = middle
        except ModelError:
            low = middle + 1
    return low


@given(demands, st.integers(0, 12_000), st.none() | st.integers(0, 12_000))
def test_a_plan_keeps_its_limits(demand: Demand, budget: int, idle: int | None) -> None:
    try:
        plan = make_plan(demand, budget, idle)
    except ModelError:
        assert budget < smallest(demand) or idle is not None
        return
    assert plan.peak <= budget
    assert idle is None or plan.idle <= idle
    assert sum(segment.nbytes for segment in plan.segments()) == plan.peak
    assert plan.idle == plan.peak - plan.block_cache - plan.scratch
    assert 0 <= plan.cached_blocks <= plan.streamed_blocks <= demand.blocks
    assert 0 <= plan.streamed_text_layers <= demand.text_layers
    assert bool(plan.ring) == (plan.streamed_blocks > 0 or plan.streamed_text_layers > 0)


@given(demands, st.integers(0, 12_000))
def test_no_memory_for_another_block_is_left(demand: Demand, budget: int) -> None:
    assume(budget >= smallest(demand))
    plan = make_plan(demand, budget)
    if plan.streamed_blocks > plan.cached_blocks:
        assert plan.peak + demand.block > budget
    elif plan.streamed_text_layers:
        assert plan.peak + demand.text_layer > budget


@given(demands, st.integers(0, 12_000), st.integers(0, 12_000))
def test_no_memory_for_another_text_layer_is_left_between_images(
    demand: Demand, budget: int, idle: int
) -> None:
    try:
        plan = make_plan(demand, budget, idle)
    except ModelError:
        return
    if plan.streamed_text_layers and plan.streamed_blocks == plan.cached_blocks:
        among_blocks = plan.resident_blocks * demand.block
        assert (
            plan.peak + demand.text_layer > budget
            or plan.idle - among_blocks + demand.text_layer > idle
        )


@given(demands)
def test_more_memory_never_streams_more(demand: Demand) -> None:
    least, most = smallest(demand), make_plan(demand, None).peak

    def streamed(plan: MemoryPlan) -> int:
        """Returns the bytes copied in four steps after the first."""
        return (plan.streamed_blocks - plan.cached_blocks) * demand.block

    plans = [make_plan(demand, least + (most - least) * n // 10) for n in range(11)]
    amounts = [streamed(plan) for plan in plans]
    assert amounts == sorted(amounts, reverse=True)
    assert plans[-1].ring == 0


@pytest.mark.parametrize(
    ("demand", "budget", "idle", "blocks", "cached", "layers"),
    [
        (FULL_SIZE, 18.7, 11.2, 15, 16, 0),
        (FULL_SIZE, 23, None, 21, 19, 0),
        (FULL_SIZE, 24, None, 22, 20, 0),
        (FULL_SIZE, 40, None, 60, 0, 18),
        (FULL_SIZE, 44, None, 60, 0, 28),
        (FULL_SIZE_FP8, 18.7, None, 60, 0, 2),
        (FULL_SIZE_FP8, 23, None, 60, 0, 11),
        (FULL_SIZE_FP8, 24, None, 60, 0, 13),
        # An idle limit sends blocks to the block cache before layers of the text encoder.
        (FULL_SIZE_FP8, 18.7, 11.2, 31, 29, 2),
        (FULL_SIZE_FP8, 23, 11.2, 13, 47, 11),
        (FULL_SIZE_FP8, 24, 11.2, 8, 52, 13),
    ],
)
def test_qwen_images_plans(
    demand: Demand, budget: float, idle: float | None, blocks: int, cached: int, layers: int
) -> None:
    """The table of docs/performance.md."""
    limit = None if idle is None else round(idle * 1e9)
    plan = make_plan(demand, round(budget * 1e9), limit)
    assert plan.peak <= budget * 1e9
    assert limit is None or plan.idle <= limit
    assert (plan.resident_blocks, plan.cached_blocks) == (blocks, cached)
    assert plan.resident_text_layers == layers


def test_segments_say_how_many_layers_stay() -> None:
    names = [segment.name for segment in make_plan(FULL_SIZE_FP8, 23 * 10**9).segments()]
    assert "blocks, 60 of 60" in names and "text encoder, 11 of 28 layers" in names


def test_the_ring_has_two_slots_where_only_the_text_encoder_streams() -> None:
    only_text = make_plan(FULL_SIZE_FP8, 23 * 10**9)
    assert only_text.ring == NETWORK_SLOTS * FULL_SIZE.text_layer
    both = make_plan(FULL_SIZE, 23 * 10**9)
    assert both.ring == RING_SLOTS * FULL_SIZE.text_layer


def test_a_budget_that_cannot_work_is_refused_with_the_smallest_that_would() -> None:
    with pytest.raises(ModelError, match=r"too small.*Give --vram-budget") as refused:
        make_plan(FULL_SIZE, 3_000_000_000)
    (named,) = re.findall(r"it needs ([\d.]+) GB", str(refused.value))
    assert 0 <= float(named) - smallest(FULL_SIZE) / 1e9 < 0.1
    make_plan(FULL_SIZE, round(float(named) * 1e9))
    with pytest.raises(ModelError, match="--idle-vram"):
        make_plan(FULL_SIZE, 18_000_000_000, 1_000_000_000)
