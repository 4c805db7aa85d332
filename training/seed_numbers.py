"""Seeded weights on a coarse grid, and the writing of them into a module.

Owns how the embedded model's random numbers are drawn. They are small integers times a scale:
a bf16 file of them takes a fifth of the space once compressed, in git and in the wheel.
"""

from __future__ import annotations

import torch
from torch import nn

GRID = torch.tensor([-2.0, -1.0, 0.0, 1.0, 2.0])
GRID_STD = 2.0**0.5
"""Standard deviation of uniform draws from GRID."""


def coarse(generator: torch.Generator, *shape: int, std: float) -> torch.Tensor:
    """Independent draws of five values with mean 0 and the given standard deviation, fp32."""
    draws = torch.randint(0, len(GRID), shape, generator=generator)
    return GRID[draws] * (std / GRID_STD)


def fill(
    module: nn.Module, generator: torch.Generator, gain: float = 1.0, bias_std: float = 0.02
) -> None:
    """Overwrites every parameter: matrices with std gain / sqrt(fan-in), vectors with biases.

    Norms keep their ones. Parameters are visited in the module's own order, so the same
    generator state gives the same weights.
    """
    for name, parameter in module.named_parameters():
        if "norm" in name or "gamma" in name:
            parameter.data.fill_(1.0)
        elif parameter.dim() == 1:
            parameter.data.copy_(coarse(generator, *parameter.shape, std=bias_std))
        else:
            fan_in = parameter[0].numel()
            parameter.data.copy_(coarse(generator, *parameter.shape, std=gain / fan_in**0.5))
