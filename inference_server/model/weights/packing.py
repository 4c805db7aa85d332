"""Weights of a layer in one flat buffer of bytes, so that a layer is moved with one copy.

Owns where each tensor lies in the buffer; knows nothing of what the tensors are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 256
"""Bytes between tensors: what vector loads and the tensor memory accelerator like."""


class Field(NamedTuple):
    """One tensor of a layer."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    behind: tuple[int, ...] = ()
    """Free elements behind the end of each dimension; empty: none."""

    @property
    def whole(self) -> tuple[int, ...]:
        """Its shape in memory."""
        return tuple(map(sum, zip(self.shape, self.behind or (0,) * len(self.shape), strict=True)))

    @property
    def nbytes(self) -> int:
        """Its own, alignment not counted."""
        return torch.Size(self.whole).numel() * self.dtype.itemsize


Fields = Mapping[str, Field]
"""By name, in the buffer's order."""


def nbytes(fields: Fields) -> int:
    """Bytes of a buffer that holds all of them."""
    return sum(map(_aligned, fields.values()))


def views(fields: Fields, buffer: Tensor) -> dict[str, Tensor]:
    """Each tensor as a view into a buffer (uint8) of at least `nbytes` bytes."""
    found, offset = {}, 0
    for name, field in fields.items():
        whole = buffer[offset : offset + field.nbytes].view(field.dtype).view(field.whole)
        found[name] = whole[tuple(map(slice, field.shape))]
        offset += _aligned(field)
    return found


def _aligned(field: Field) -> int:
    return -(-field.nbytes // ALIGNMENT) * ALIGNMENT
