"""The number and rank of adapter slots that are chosen for a budget."""

from __future__ import annotations

import pytest

from inference_server.engine.loaded_model import AdapterCapacity
from inference_server.loading.adapter_budget import SHARE, USUAL, choose_capacity
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

GB = 1e9


def slot_bytes(rank: int) -> int:
    """Returns the size of a slot for Qwen-Image."""
    shape = (60, 3072, 12288, 64, 64, 3584, 128, 10)
    return SegmentLayout(LayoutParameters(*shape, rank, "bfloat16")).slot_bytes


@pytest.mark.parametrize(
    ("budget", "capacity"),
    [(18.7, (2, 16)), (24.0, (2, 32)), (40.0, (4, 32)), (79.0, (4, 64)), (141.0, (8, 64))],
)
def test_a_larger_card_has_more_slots_of_a_larger_rank(
    budget: float, capacity: tuple[int, int]
) -> None:
    chosen = choose_capacity(round(budget * GB), slot_bytes)
    assert chosen == AdapterCapacity(*capacity)
    assert chosen.allocated * slot_bytes(chosen.max_rank) <= SHARE * budget * GB


def test_the_smallest_budget_has_two_slots() -> None:
    assert choose_capacity(1, slot_bytes) == AdapterCapacity(2, 16)


def test_the_operators_numbers_are_used() -> None:
    assert choose_capacity(round(18.7 * GB), slot_bytes, slots=6, max_rank=128) == AdapterCapacity(
        6, 128
    )
    assert choose_capacity(round(18.7 * GB), slot_bytes, slots=1) == AdapterCapacity(1, 32)
    assert choose_capacity(round(18.7 * GB), slot_bytes, max_rank=64) == AdapterCapacity(2, 64)


def test_pinned_adapters_leave_a_slot_for_the_others() -> None:
    assert choose_capacity(round(18.7 * GB), slot_bytes, pinned=3) == AdapterCapacity(4, 16)
    assert choose_capacity(None, slot_bytes, pinned=5) == AdapterCapacity(6, 32)


def test_without_a_budget_the_usual_capacity_is_chosen() -> None:
    assert choose_capacity(None, slot_bytes) == USUAL
