"""The memory plan keeps its budget and uses all of it; errors name the smallest budget."""

from __future__ import annotations

import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.errors import ModelError
from inference_server.loading.memory_budget import make_plan

FULL_SIZE = Demand(
    always=10**9,
    slots=735 * 10**6,
    scratch=10**9,
    scratch_whole=25 * 10**8,
    block=453 * 10**6,
    blocks=60,
    text_layer=466 * 10**6,
    text_layers=28,
)

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
    assert bool(plan.ring) == (plan.streamed_blocks > 0 or not plan.text_resident)


@given(demands, st.integers(0, 12_000))
def test_no_memory_for_another_block_is_left(demand: Demand, budget: int) -> None:
    assume(budget >= smallest(demand))
    plan = make_plan(demand, budget)
    if plan.streamed_blocks > plan.cached_blocks:
        assert plan.peak + demand.block > budget


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


def test_the_reference_cards_plan() -> None:
    plan = make_plan(FULL_SIZE, 18_700_000_000, 11_200_000_000)
    assert plan.idle <= 11_200_000_000 and plan.peak <= 18_700_000_000
    assert (plan.resident_blocks, plan.cached_blocks) == (16, 15)


def test_a_budget_that_cannot_work_is_refused_with_the_smallest_that_would() -> None:
    with pytest.raises(ModelError, match=r"too small.*Give --vram-budget") as refused:
        make_plan(FULL_SIZE, 3_000_000_000)
    (named,) = re.findall(r"it needs ([\d.]+) GB", str(refused.value))
    assert 0 <= float(named) - smallest(FULL_SIZE) / 1e9 < 0.1
    make_plan(FULL_SIZE, round(float(named) * 1e9))
    with pytest.raises(ModelError, match="--idle-vram"):
        make_plan(FULL_SIZE, 18_000_000_000, 1_000_000_000)
