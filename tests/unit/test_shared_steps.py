"""How many images share a step: none together where nothing is copied, as many as hide what is."""

from __future__ import annotations

import pytest
import torch

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.loading.batch_limit import Rates, images_per_step, measure, step_flops
from inference_server.model.transformer_weights import TransformerConfig

BLOCK, BLOCKS = 453_000_000, 60
FLOPS = step_flops(TransformerConfig(), 4096)
H200, RTX_4090 = Rates(55e9, 7e14), Rates(25e9, 1.65e14)


def plan(resident: int, staying: int = 0, *, block: int = BLOCK, text: bool = False) -> MemoryPlan:
    demand = Demand(0, 0, 0, 0, block=block, blocks=BLOCKS, text_layer=1, text_layers=28)
    return MemoryPlan(demand, resident, staying, text_resident=text, tiles=False, ring=4 * block)


def not_measured() -> Rates:
    raise AssertionError("nothing is copied: there is nothing to measure")


def test_the_arithmetic_of_a_step_is_as_measured() -> None:
    # 55.7 TFLOP of products and 12.8 of attention; 117 ms of it on an H200 (docs/decisions.md).
    assert 0.105 < FLOPS / H200.products < 0.125


@pytest.mark.parametrize("streamed_text", [True, False])
def test_nothing_is_shared_where_no_block_is_copied(streamed_text: bool) -> None:
    """Eight bits within 23 GB stream the text encoder alone: four in flight were 0.82 x."""
    assert images_per_step(plan(BLOCKS, text=not streamed_text), FLOPS, not_measured) == 1
    assert images_per_step(plan(BLOCKS - 9, staying=9), FLOPS, not_measured) == 1


def test_as_many_as_hide_the_copies() -> None:
    # 18.7 GB: 29 blocks of 60 are copied a step, 13.1 GB, 240 ms on an H200.
    within_18_7 = plan(20, 11)
    assert images_per_step(within_18_7, FLOPS, lambda: H200) == 3
    assert images_per_step(within_18_7, FLOPS, lambda: RTX_4090) == 2
    assert images_per_step(plan(55, 4), FLOPS, lambda: H200) == 1
    assert images_per_step(plan(0), FLOPS, lambda: H200) == 4


def test_this_machine_can_be_measured() -> None:
    rates = measure(torch.device("cpu"), torch.float32)
    assert 1e8 < rates.link < 1e12 and 1e9 < rates.products < 1e15
