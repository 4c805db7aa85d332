"""Weights of a layer in one flat buffer, so that a layer is moved with one copy.

Owns where each tensor lies in the buffer; knows nothing of what the tensors are.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

ALIGNMENT = 128
"""Elements between tensors: 256 bytes in bf16, what vector loads like."""

Shapes = Mapping[str, tuple[int, ...]]
"""Shape by name, in the buffer's order."""


def _aligned(shape: tuple[int, ...]) -> int:
    return -(-torch.Size(shape).numel() // ALIGNMENT) * ALIGNMENT


def elements(shapes: Shapes) -> int:
    """Elements of a buffer that holds all of them."""
    return sum(map(_aligned, shapes.values()))


def views(shapes: Shapes, buffer: Tensor) -> dict[str, Tensor]:
    """Each tensor as a view into a buffer of at least `elements` elements."""
    found, offset = {}, 0
    for name, shape in shapes.items():
        found[name] = buffer[offset : offset + torch.Size(shape).numel()].view(shape)
        offset += _aligned(shape)
    return found
