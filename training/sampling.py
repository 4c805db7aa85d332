"""Samples batches of images during training: Euler steps over the product's schedule."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

SHIFT = 3.0
"""e**mu of the exponential time shift with base_shift = max_shift = ln 3."""

Velocity = Callable[[Tensor, Tensor], Tensor]
"""(x [B, 256, 128], sigma [B]) -> velocity of the same shape as x."""


def shifted(sigma: Tensor, shift: float | Tensor) -> Tensor:
    """Applies the exponential time shift, sigma' = s / (s + 1 / sigma - 1)."""
    return shift * sigma / (1 + (shift - 1) * sigma)


def schedule(steps: int, shift: float = SHIFT) -> Tensor:
    """Returns [steps + 1] noise levels from 1 to 0; for four steps 1, 0.9, 0.75, 0.5, 0."""
    return torch.cat([shifted(torch.linspace(1, 1 / steps, steps), shift), torch.zeros(1)])


@torch.no_grad()
def trajectory(velocity: Velocity, x: Tensor, sigmas: Tensor) -> Tensor:
    """Integrates with Euler's method from `x` at sigmas[0] to sigmas[-1]."""
    for now, after in zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True):
        level = torch.full((len(x),), now, device=x.device)
        with torch.autocast("cuda", torch.bfloat16, enabled=x.is_cuda):
            v = velocity(x, level)
        x = x + (after - now) * v.float()
    return x
