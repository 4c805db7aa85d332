"""Packs latents into the transformer's tokens and back, in the order of the stock pipeline."""

from __future__ import annotations

from torch import Tensor


def pack(z: Tensor) -> Tensor:
    """Packs [B, C, H, W] to [B, H/2 * W/2, C * 4]."""
    b, c, h, w = z.shape
    z = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(b, h // 2 * (w // 2), c * 4)


def unpack(packed: Tensor) -> Tensor:
    """Inverts `pack` for square grids."""
    b, n, c = packed.shape
    edge = int(n**0.5)
    z = packed.view(b, edge, edge, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(b, c // 4, edge * 2, edge * 2)
