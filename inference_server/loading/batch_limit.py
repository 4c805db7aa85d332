"""How many images should share a step: as many as hide the copying of streamed blocks, and no more.

Images that share a step go through a block one after another, so that each streamed block is copied
once for all of them. That pays only while the step waits for copies: a step that computes longer
than it copies makes every image in it later and none sooner.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final, NamedTuple

import torch

from inference_server.engine.memory_plan import MemoryPlan
from inference_server.model.transformer_weights import TransformerConfig

MOST: Final = 4
"""Images that share a step at most; `demand.SCRATCH_BYTES` has room for their activations."""

ATTENTION_SHARE: Final = 0.5
"""Rate of attention against that of matrix products; 0.5 to 0.6 on an H200 (docs/decisions.md)."""

_COPIED_BYTES: Final = 64 << 20
_PRODUCT: Final = (4096, 3072, 12288)
"""Rows, inner and outer width of the measured product: the largest of Qwen-Image's at 1024x1024."""
_PRODUCT_ON_CPU: Final = (256, 1024, 1024)
_REPEATS: Final = 5


class Rates(NamedTuple):
    """What this machine does, measured."""

    link: float
    """Bytes a second from host memory to the device."""
    products: float
    """Floating-point operations a second of matrix products in the model's dtype."""


def images_per_step(plan: MemoryPlan, step_flops: float, rates: Callable[[], Rates]) -> int:
    """Returns how many images should share a step.

    Args:
        plan: says how much is copied for each step.
        step_flops: operations of a step of one image, counted at the rate of matrix products.
        rates: measures the machine; called only if anything is copied.

    Returns:
        1 if nothing is copied, else the fewest whose arithmetic takes as long as the copies.
    """
    copied = (plan.streamed_blocks - plan.cached_blocks) * plan.demand.block
    if not copied:
        return 1
    measured = rates()
    copying, computing = copied / measured.link, step_flops / measured.products
    return max(1, min(MOST, math.ceil(copying / computing)))


def step_flops(config: TransformerConfig, tokens: int) -> float:
    """Operations of a step of one image of `tokens` tokens, attention at its slower rate.

    A block has 12 width^2 multiply-adds a token in its products (q, k, v, out; two of the MLP's,
    four times as wide) and 2 tokens * width in attention. The text's tokens are left out.
    """
    width = config.width
    products = 2 * 12 * width**2 * tokens
    attention = 4 * tokens**2 * width
    return config.blocks * (products + attention / ATTENTION_SHARE)


def measure(device: torch.device, dtype: torch.dtype) -> Rates:
    """Measures the machine in some milliseconds."""
    pinned = device.type == "cuda"
    host = torch.empty(_COPIED_BYTES, dtype=torch.uint8, pin_memory=pinned)
    there = torch.empty(_COPIED_BYTES, dtype=torch.uint8, device=device)
    rows, inner, outer = _PRODUCT if pinned else _PRODUCT_ON_CPU
    x = torch.zeros(rows, inner, dtype=dtype, device=device)
    w = torch.zeros(inner, outer, dtype=dtype, device=device)
    copying = _fastest(lambda: there.copy_(host, non_blocking=pinned), device)
    computing = _fastest(lambda: x @ w, device)
    return Rates(_COPIED_BYTES / copying, 2 * rows * inner * outer / computing)


def _fastest(work: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of several runs; the first, which warms up, is not counted."""
    seconds = []
    for _ in range(_REPEATS + 1):
        _wait(device)
        began = time.perf_counter()
        work()
        _wait(device)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
