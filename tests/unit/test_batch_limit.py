"""The default of `--max-batch`: 1 where nothing is copied, else what hides the copies."""

from __future__ import annotations

import pytest
import torch

from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.loading import batch_limit
from inference_server.loading.batch_limit import Rates, images_per_step, measure, step_flops
from inference_server.model.kernels import reference
from inference_server.model.kernels.operations import Quantized
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.weight_kind import WeightKind

BLOCK, BLOCKS = 453_000_000, 60
FLOPS = step_flops(TransformerConfig(), 4096)
H200, RTX_4090 = Rates(55e9, 7e14, 3.5e14), Rates(25e9, 1.65e14, 0.825e14)


def plan(resident: int, cached: int = 0, *, block: int = BLOCK, layers: int = 0) -> MemoryPlan:
    demand = Demand(0, 0, 0, 0, block=block, blocks=BLOCKS, text_layer=1, text_layers=28)
    return MemoryPlan(demand, resident, cached, layers, tiles=False, ring=4 * block)


def not_measured() -> Rates:
    raise AssertionError("nothing is copied: there is nothing to measure")


def test_the_arithmetic_of_a_step_takes_as_long_as_measured() -> None:
    # 55.7 TFLOP of products and 12.8 of attention; 117 ms of it on an H200 (docs/decisions.md).
    assert 0.105 < FLOPS.seconds(H200) < 0.125


@pytest.mark.parametrize("layers", [0, 11, 28])
def test_nothing_is_shared_where_no_block_is_copied(layers: int) -> None:
    """fp8 within 23 GB streams the text encoder only: batches of four ran at 0.82 x."""
    assert images_per_step(plan(BLOCKS, layers=layers), FLOPS, not_measured) == 1
    assert images_per_step(plan(BLOCKS - 9, cached=9), FLOPS, not_measured) == 1


def test_as_many_as_hide_the_copies() -> None:
    # Within 18.7 GB, 29 of 60 blocks are copied per step: 13.1 GB, 240 ms on an H200.
    within_18_7 = plan(20, 11)
    assert images_per_step(within_18_7, FLOPS, lambda: H200) == 3
    assert images_per_step(within_18_7, FLOPS, lambda: RTX_4090) == 2
    assert images_per_step(plan(55, 4), FLOPS, lambda: H200) == 1
    assert images_per_step(plan(0), FLOPS, lambda: H200) == 4


def test_quantized_products_are_faster_so_that_more_images_hide_the_copies() -> None:
    """At the rate of bf16 products one image less seemed to hide the copies of fp8 blocks."""
    quantized = H200._replace(products=1.2e15)
    streamed = plan(20, 0, block=227_000_000)
    assert images_per_step(streamed, FLOPS, lambda: H200) == 2
    assert images_per_step(streamed, FLOPS, lambda: quantized) == 3


@pytest.mark.parametrize("kind", WeightKind)
def test_this_machine_can_be_measured(kind: WeightKind) -> None:
    rates = measure(torch.device("cpu"), torch.float32, kind)
    assert 1e8 < rates.link < 1e12 and 1e9 < rates.products < 1e15


class Spy:
    """Records the operands of quantized products."""

    def __init__(self) -> None:
        self.products: list[tuple[Quantized, Quantized]] = []
        self.quantize = reference.quantize

    def scaled_linear(
        self,
        x: Quantized,
        weight: Quantized,
        bias: torch.Tensor,
        *,
        out: torch.Tensor | None = None,
    ) -> torch.Tensor:
        self.products.append((x, weight))
        return reference.scaled_linear(x, weight, bias, out=out)


def test_the_blocks_own_product_is_measured_with_operands_like_theirs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spy = Spy()
    monkeypatch.setattr(batch_limit, "operations_on", lambda device: spy)
    measure(torch.device("cpu"), torch.float32, WeightKind.BF16)
    assert not spy.products
    measure(torch.device("cpu"), torch.float32, WeightKind.FP8)
    assert spy.products
    for operand in spy.products[0]:
        assert operand.values.dtype == torch.float8_e4m3fn
        assert len(operand.values.float().unique()) > 100
