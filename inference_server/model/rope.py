"""Rotary positions of image and text tokens, as real cosines and sines.

The position scheme is Qwen-Image's "scale_rope" (diffusers `QwenEmbedRope`): the grid is centred on
zero, and text positions continue after the grid's edge on every axis. The tables are real, not
complex as in diffusers, because compilers generate poor code for complex tensors.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

THETA = 10_000.0
"""Base of the frequencies; diffusers `QwenEmbedRope`."""


class Rotation(NamedTuple):
    """Cosines and sines of each token's rotary angles, float32."""

    cos: Tensor
    """[tokens, head_dim / 2]"""
    sin: Tensor
    """[tokens, head_dim / 2]"""


def _angles(positions: Tensor, dim: int) -> Tensor:
    """Returns the angles of one axis, [tokens, dim / 2]; positions may be negative."""
    frequencies = 1.0 / torch.pow(THETA, torch.arange(0, dim, 2, dtype=torch.float32) / dim)
    return torch.outer(positions.to(torch.float32), frequencies)


def image_rotation(height: int, width: int, axes: tuple[int, int, int]) -> Rotation:
    """Computes the rotation of a `height` x `width` grid of tokens, row by row.

    Args:
        height: rows of tokens (64 at 1024x1024 with an 8x VAE and 2x2 patches).
        width: columns of tokens.
        axes: features of a head that encode frame, row and column.
    """
    rows = torch.arange(height) - (height - height // 2)
    columns = torch.arange(width) - (width - width // 2)
    frame = torch.zeros(height * width)
    angles = torch.cat(
        [
            _angles(frame, axes[0]),
            _angles(rows.repeat_interleave(width), axes[1]),
            _angles(columns.repeat(height), axes[2]),
        ],
        dim=1,
    )
    return Rotation(angles.cos(), angles.sin())


def text_rotation(tokens: int, height: int, width: int, axes: tuple[int, int, int]) -> Rotation:
    """Computes the rotation of `tokens` text tokens that follow a `height` x `width` grid."""
    positions = torch.arange(tokens) + max(height // 2, width // 2)
    angles = torch.cat([_angles(positions, dim) for dim in axes], dim=1)
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """Rotates neighbouring pairs of the last dimension.

    Args:
        x: [tokens, heads, head_dim], any float dtype; computed in float32.
        rotation: that of the same tokens.
    """
    pairs = x.float().unflatten(-1, (-1, 2))
    even, odd = pairs.unbind(-1)
    cos, sin = rotation.cos[:, None], rotation.sin[:, None]
    turned = torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1)
    return turned.flatten(-2).to(x.dtype)
