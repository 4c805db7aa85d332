"""What a decoder and a small transformer do to an image, for training on composed ones.

Generated images are blurred and lose their finest detail, carry noise of the size of a token, have
wavering outlines and slightly wrong colours. All functions take images [B, 3, E, E] in 0..1, change
each of them by an amount of its own, and run on their device.
"""

from __future__ import annotations

import math
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

CLEAN: Final = 0.2
"""Share of the images that stay as they are."""
COARSE: Final = (2, 3, 4)
"""Factors by which detail is lost."""
GRAINS: Final = (96, 48, 24, 12)
"""Grains of noise along an edge: of 10 to 85 px in an image of 1024, latent pixels and tokens."""
NOISE: Final = 0.09
"""Largest standard deviation of that noise."""
WAVER: Final = 0.02
"""Displacement of an outline, as a share of half the frame."""
SHIFT: Final = 0.06
"""Largest change of a colour's channel."""
CODED: Final = 0.15
"""Largest step of the quantized cosine coefficients."""


def _rand(images: Tensor, channels: int = 1) -> Tensor:
    return torch.rand(len(images), channels, 1, 1, device=images.device)


def _field(images: Tensor, channels: int, grains: int) -> Tensor:
    """Returns smooth noise [B, channels, E, E] with `grains` along an edge."""
    coarse = torch.randn(len(images), channels, grains, grains, device=images.device)
    return F.interpolate(coarse, images.shape[-2:], mode="bilinear", align_corners=False)


def blurred(images: Tensor) -> Tensor:
    """Blurs or sharpens."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0], device=images.device) / 16
    weight = kernel.expand(3, 1, 1, -1)
    soft = F.conv2d(F.pad(images, (2, 2, 2, 2), mode="reflect"), weight, groups=3)
    soft = F.conv2d(soft, weight.transpose(2, 3), groups=3)
    return images + (_rand(images) * 1.6 - 0.4) * (soft - images)


def coarsened(images: Tensor) -> Tensor:
    """Loses fine detail, in some places more than in others."""
    factor = COARSE[int(torch.randint(len(COARSE), ()))]
    small = F.avg_pool2d(images, factor)
    rough = F.interpolate(small, images.shape[-2:], mode="bilinear", align_corners=False)
    share = (_rand(images) * 1.5 - 0.5 + 0.5 * _field(images, 1, 6)).clamp(0, 1)
    return images + share * (rough - images)


def wavering(images: Tensor) -> Tensor:
    """Shifts places by smooth noise, so that outlines waver."""
    count, edge = len(images), images.shape[-1]
    moved = (WAVER / 2 * _rand(images) * _field(images, 2, 16)).permute(0, 2, 3, 1)
    line = (torch.arange(edge, device=images.device) + 0.5) / edge * 2 - 1
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).expand(count, -1, -1, -1)
    return F.grid_sample(images, grid + moved, padding_mode="border", align_corners=False)


def noisy(images: Tensor) -> Tensor:
    """Adds colour noise with grains of several sizes, in some places more than in others."""
    grains = GRAINS[int(torch.randint(len(GRAINS), ()))]
    where = (0.5 + _field(images, 1, 6)).clamp(0, 1.5)
    strength = NOISE * _rand(images).square() * where
    fine = 0.03 * _rand(images) * torch.randn_like(images)
    return images + strength * _field(images, 3, grains) + fine


def recoloured(images: Tensor) -> Tensor:
    """Changes contrast, brightness, and slightly the colours."""
    shift = SHIFT * (2 * _rand(images, 3) - 1) * _rand(images)
    x = (images - 0.5) * (0.85 + 0.3 * _rand(images)) + 0.5
    return x + shift + 0.12 * (_rand(images) - 0.5)


def _cosines(device: torch.device) -> Tensor:
    """The orthonormal cosine transform of eight values [8, 8]."""
    n = torch.arange(8, device=device)
    rows = torch.cos(math.pi * (2 * n[None] + 1) * n[:, None] / 16) / 2
    rows[0] /= math.sqrt(2)
    return rows


def coded(images: Tensor) -> Tensor:
    """Quantizes squares of 8 px as a JPEG does."""
    cosines = _cosines(images.device)
    blocks = images.unfold(2, 8, 8).unfold(3, 8, 8)
    step = (CODED * _rand(images)[..., None, None]).clamp(min=1e-3)
    whole = ((cosines @ blocks @ cosines.T) / step).round() * step
    return (cosines.T @ whole @ cosines).permute(0, 1, 2, 4, 3, 5).reshape(images.shape)


def distorted(images: Tensor) -> Tensor:
    """Does all of it to most images, and nothing to CLEAN of them."""
    x = images
    for change in (wavering, coarsened, blurred, recoloured, noisy, coded):
        x = change(x)
    return torch.where(_rand(images) < CLEAN, images, x).clamp(0, 1)
