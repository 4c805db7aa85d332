"""How the stored values of a quantised tensor become the weights that are meant.

W = values * scale, with one scale for the tensor or one for each row. A ConvRot file holds W H
instead, H a block-diagonal rotation; H is symmetric and orthogonal, so it is its own inverse.
Layout: `comfy-kitchen`, `tensor/int8.py`, 0.2.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Final

import torch
from torch import Tensor

from inference_server.model.kernels.operations import Quantized

MAX_GROUP: Final = 4096
"""Largest group of a rotation that is accepted; published files have 256."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The scaling of one tensor.

    Attributes:
        scale: [1, 1] or [rows, 1], float32, finite.
        group: columns that a rotation mixes, see `is_group`; 0: not rotated.
        full_precision: the file asks for products in full precision.
    """

    scale: Tensor
    group: int = 0
    full_precision: bool = False

    def widen(self, values: Tensor) -> Tensor:
        """Returns the weights in float32.

        Args:
            values: [rows, ...], as stored; [rows, columns] if they are rotated.
        """
        wide = values.float()
        wide *= self.scale.view(-1, *[1] * (values.dim() - 1))
        return unrotated(wide, self.group) if self.group else wide

    def quantized(self, values: Tensor) -> Quantized:
        """Returns the same bits as the engine's float8 matrix.

        Args:
            values: [rows, columns], float8_e4m3fn.
        """
        return Quantized(values, self.scale.expand(len(values), 1))


UNSCALED: Final = Scaling(torch.ones(1, 1))
"""The values are the weights."""


def is_group(size: int) -> bool:
    """Returns True if a rotation can mix groups of this size: a power of four."""
    return 4 <= size <= MAX_GROUP and size & (size - 1) == 0 and size.bit_length() % 2 == 1


@cache
def hadamard(size: int) -> Tensor:
    """Returns the regular Hadamard matrix of a power of four, orthogonal, [size, size] float32."""
    four = torch.ones(4, 4) - 2 * torch.eye(4).flip(1)
    matrix = four
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix.div(size**0.5)


def unrotated(weight: Tensor, group: int) -> Tensor:
    """Undoes the rotation of a ConvRot matrix.

    Args:
        weight: [rows, columns] float32, rotated in groups along its columns.
        group: columns per group; divides their number.
    """
    return (weight.view(-1, group) @ hadamard(group)).view(weight.shape)
