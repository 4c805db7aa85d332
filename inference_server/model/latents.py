"""Noise, packing of latents into tokens, and the preview projection.

Noise is generated on the CPU in float32, so a seed gives the same image on every device.
"""

from __future__ import annotations

import torch
from torch import Tensor


def noise(seed: int, z: int, height: int, width: int) -> Tensor:
    """Returns [1, z, height, width] float32 on the CPU, equal to diffusers' CPU noise."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn((1, 1, z, height, width), generator=generator)[:, 0]


def pack(latents: Tensor) -> Tensor:
    """Turns 2x2 patches into tokens, row by row: [1, z, h, w] -> [h/2 * w/2, 4 z]."""
    _, z, height, width = latents.shape
    patches = latents.view(z, height // 2, 2, width // 2, 2).permute(1, 3, 0, 2, 4)
    return patches.reshape(height // 2 * (width // 2), 4 * z)


def unpack(tokens: Tensor, height: int, width: int) -> Tensor:
    """Inverts `pack`: [h/2 * w/2, 4 z] -> [1, z, h, w]."""
    z = tokens.shape[1] // 4
    patches = tokens.view(height // 2, width // 2, z, 2, 2).permute(2, 0, 3, 1, 4)
    return patches.reshape(1, z, height, width)


class PreviewProjection:
    """Approximates the colour of each latent pixel by a linear map.

    Args:
        factors: [z, 3], RGB in [-1, 1] per unit of a normalised latent channel.
        bias: [3].
    """

    def __init__(self, factors: Tensor, bias: Tensor) -> None:
        self._factors, self._bias = factors, bias

    def __call__(self, latents: Tensor) -> Tensor:
        """Maps [1, z, h, w] float32 to [h, w, 3] uint8."""
        rgb = torch.einsum("zhw,zc->hwc", latents[0], self._factors) + self._bias
        return to_bytes(rgb)


def to_bytes(rgb: Tensor) -> Tensor:
    """Maps RGB in [-1, 1] to uint8, rounded."""
    return rgb.float().add(1.0).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
