"""Packs the weights of a layer into one flat buffer of bytes, so that one copy moves a layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 256
"""Alignment of tensors in bytes; suits vector loads and the tensor memory accelerator."""


class Field(NamedTuple):
    """Shape and dtype of one tensor of a layer."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    behind: tuple[int, ...] = ()
    """Free elements behind the end of each dimension; empty: none."""

    @property
    def whole(self) -> tuple[int, ...]:
        """The tensor's shape in memory, spare elements included."""
        return tuple(map(sum, zip(self.shape, self.behind or (0,) * len(self.shape), strict=True)))

    @property
    def nbytes(self) -> int:
        """The tensor's size in memory, without alignment."""
        return torch.Size(self.whole).numel() * self.dtype.itemsize


Fields = Mapping[str, Field]
"""Fields by name, in the order of the buffer."""


def nbytes(fields: Fields) -> int:
    """Returns the size of a buffer that holds all fields."""
    return sum(map(_aligned, fields.values()))


def views(fields: Fields, buffer: Tensor) -> dict[str, Tensor]:
    """Returns each tensor as a view into a uint8 buffer of at least `nbytes` bytes."""
    found, offset = {}, 0
    for name, field in fields.items():
        whole = buffer[offset : offset + field.nbytes].view(field.dtype).view(field.whole)
        found[name] = whole[tuple(map(slice, field.shape))]
        offset += _aligned(field)
    return found


def _aligned(field: Field) -> int:
    return -(-field.nbytes // ALIGNMENT) * ALIGNMENT
