"""Chooses how many images share a step: as many as hide the copies of streamed blocks.

Images that share a step go through a block one after another, so each streamed block is copied
once for all of them. That pays only while the step waits for copies: in a step that computes longer
than it copies, every image finishes later and none sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import torch
from torch.nn import functional

from inference_server.engine.memory_plan import MemoryPlan
from inference_server.model.kernels.choice import operations_on
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.weight_kind import WeightKind

MAX_IMAGES: Final = 4
"""Most images that share a step; `memory_sizes.SCRATCH_BYTES` holds their activations."""

ATTENTION_SHARE: Final = 0.5
"""Rate of attention relative to bf16 products; 0.5 to 0.6 on an H200 (docs/decisions.md)."""

_COPIED_BYTES: Final = 64 << 20
_PRODUCT: Final = (4096, 3072, 12288)
"""Rows, inner and outer width of the measured product: the largest of Qwen-Image's at 1024x1024."""
_PRODUCT_ON_CPU: Final = (256, 1024, 1024)
_REPEATS: Final = 5


class Rates(NamedTuple):
    """Measured rates of this machine."""

    link: float
    """Bytes per second from host memory to the device."""
    products: float
    """Floating-point operations per second of products with the blocks' matrices."""
    attention: float
    """Floating-point operations per second of attention, which is never quantized."""


class StepFlops(NamedTuple):
    """Floating-point operations in one step of one image."""

    products: float
    attention: float

    def seconds(self, rates: Rates) -> float:
        """Returns the time they take."""
        return self.products / rates.products + self.attention / rates.attention


def images_per_step(plan: MemoryPlan, flops: StepFlops, rates: Callable[[], Rates]) -> int:
    """Returns how many images should share a step.

    Args:
        plan: determines how much is copied in each step.
        flops: the operations of one image's step.
        rates: measures the machine; called only if anything is copied.

    Returns:
        1 if nothing is copied, else the fewest whose arithmetic takes as long as the copies.
    """
    copied = (plan.streamed_blocks - plan.cached_blocks) * plan.demand.block
    if not copied:
        return 1
    measured = rates()
    copying, computing = copied / measured.link, flops.seconds(measured)
    return max(1, min(MAX_IMAGES, math.ceil(copying / computing)))


def step_flops(config: TransformerConfig, tokens: int) -> StepFlops:
    """Counts the operations in a step of one image of `tokens` tokens.

    A block has 12 width^2 multiply-adds per token in its products (q, k, v, out; two of the MLP's,
    four times as wide) and 2 tokens * width in attention. The text's tokens are left out.
    """
    width = config.width
    products = 2 * 12 * width**2 * tokens
    attention = 4 * tokens**2 * width
    return StepFlops(config.blocks * products, config.blocks * attention)


def measure(device: torch.device, dtype: torch.dtype, kind: WeightKind) -> Rates:
    """Measures the machine in some milliseconds.

    Args:
        device: where the model computes.
        dtype: of activations.
        kind: of the blocks' matrices; fp8 is measured with the operation that multiplies them.
    """
    on_gpu = device.type == "cuda"
    host = torch.empty(_COPIED_BYTES, dtype=torch.uint8, pin_memory=on_gpu)
    target = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    copying = _fastest(lambda: target.copy_(host, non_blocking=on_gpu), device)
    plain = _product_rate(device, dtype, WeightKind.BF16)
    products = plain if kind is WeightKind.BF16 else _product_rate(device, dtype, kind)
    return Rates(_COPIED_BYTES / copying, products, ATTENTION_SHARE * plain)


def _product_rate(device: torch.device, dtype: torch.dtype, kind: WeightKind) -> float:
    """Returns floating-point operations per second of the model's largest product.

    The operands are random: a GPU multiplies zeros at a higher clock than weights.
    """
    rows, inner, outer = _PRODUCT if device.type == "cuda" else _PRODUCT_ON_CPU
    x = torch.randn(rows, inner, dtype=dtype, device=device)
    w = torch.randn(outer, inner, dtype=dtype, device=device)
    bias = torch.randn(outer, dtype=dtype, device=device)
    if kind is WeightKind.FP8:
        operations = operations_on(device)
        weight = operations.quantize(w)
        # The norm before the product quantizes x; it is not part of the product.
        activations = operations.quantize(x)
        seconds = _fastest(lambda: operations.scaled_linear(activations, weight, bias), device)
    else:
        seconds = _fastest(lambda: functional.linear(x, w, bias), device)
    return 2 * rows * inner * outer / seconds


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Returns the seconds of the fastest of several runs, after one that warms up."""
    seconds = []
    for _ in range(_REPEATS + 1):
        _synchronize(device)
        began = time.perf_counter()
        work()
        _synchronize(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
