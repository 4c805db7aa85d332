"""LoKr: a module's change is the Kronecker product of two small matrices.

    delta = kron(w1, w2) * scale

(Yeh et al., arXiv 2309.14859). w1 is [a, b] and w2 [c, d] for a layer [a c, b d]; each is written
whole or as the product of two matrices of a rank. The scale is alpha / rank, and 1 where both are
whole: LyCORIS and ai-toolkit set alpha to the rank then, whatever was configured (ai-toolkit's is
9999999999, infinite in fp16), and ComfyUI ignores it. A file without `.alpha` has scale 1. peft
alone scales whole factors too, by an alpha that only its configuration tells (`peft_config`).

With x as a matrix [b, d], delta x is w1 x w2^T: two products of small matrices, which is how a
slot's are applied. A factor that is written as two is multiplied out: at the sizes of trainers'
defaults (rank 16 of 64 x 64) that costs 4 KB a layer, and saves a third product a step.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.factors import KroneckerFactors, read_scale
from wuliart_lora.keys import LOKR_ROLES, Role
from wuliart_lora.reader import Tensor
from wuliart_lora.scale import Stated
from wuliart_lora.tensor_values import Float32Array, largest, widened


class KroneckerPair(NamedTuple):
    """A module's factors as the file has them: one tensor each, or two to be multiplied."""

    first: tuple[Tensor, ...]
    second: tuple[Tensor, ...]
    scale: float

    @property
    def first_shape(self) -> tuple[int, int]:
        """Rows and columns of the first factor."""
        return self.first[0].shape[0], self.first[-1].shape[1]

    def widened(self) -> KroneckerFactors:
        """Returns the factors in float32; computed again by each call."""
        first, second = (_product(factor) for factor in (self.first, self.second))
        if self.scale != 1.0:
            first = first * np.float32(self.scale)
        return KroneckerFactors(first, second)


def read_lokr(
    tensors: Mapping[str, Tensor],
    module: str,
    roles: Mapping[Role, str],
    rank: int,
    stated: Stated | None,
) -> KroneckerPair:
    """Reads a module's LoKr factors, and checks that they are finite, also multiplied and scaled.

    Args:
        tensors: the file's, by name.
        module: the module's path.
        roles: role -> name of the module's tensor.
        rank: that alpha is divided by; 0 if both factors are whole, and `.alpha` says nothing.
        stated: the scale that is written outside of tensors, None if none is.

    Raises:
        LoraError: a value is not finite, or the `.alpha` tensor contradicts `stated`.
    """
    if rank:
        scale = read_scale(tensors, module, roles, rank, stated)
    else:
        scale = 1.0 if stated is None else stated.scale
    factors = []
    for factor, multiplier in zip(LOKR_ROLES, (scale, 1.0), strict=True):
        names = [roles[role] for role in factor if role in roles]
        factors.append(tuple(tensors[name] for name in names))
        # A bound of the elements, in float64, which holds it for all float32 factors.
        bound = np.float64(multiplier) * (tensors[names[0]].shape[1] if len(names) == 2 else 1)
        for name in names:
            bound *= np.float64(largest(name, tensors[name]))
        if bound > np.finfo(np.float32).max:
            raise LoraError(
                f"{shown(names[0])!r}, multiplied and scaled, exceeds the range of float32; the "
                "LoKr is damaged"
            )
    return KroneckerPair(factors[0], factors[1], scale)


def _product(factor: tuple[Tensor, ...]) -> Float32Array:
    if len(factor) == 1:
        return widened(factor[0])
    up, down = factor
    product: Float32Array = widened(up) @ widened(down)
    return product
