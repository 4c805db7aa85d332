"""LoHa: a module's change is the elementwise product of two low-rank products.

    delta = (w1_a @ w1_b) * (w2_a @ w2_b) * scale

Of ranks r1 and r2 it is exactly a LoRA of rank r1 * r2, whose A is the row-wise and B the
column-wise Kronecker product of the factors (Hyeon-Woo et al., arXiv 2108.06098). `a` is up and
`b` is down, and the scale is alpha / r1, in LyCORIS, musubi-tuner (`networks/loha.py`), peft and
ComfyUI (`weight_adapter/loha.py`) alike. The trainers always write `.alpha`; musubi-tuner and
ComfyUI read a file without as scale 1, and so does this reader. Each program starts training with
another of the factors at zero, so a factor of zeros is no sign of an unfinished file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from wuliart_lora.errors import LoraError, shown
from wuliart_lora.factors import LoraBits, LoraFactors, read_scale
from wuliart_lora.keys import LOHA_ROLES, Role
from wuliart_lora.reader import Tensor
from wuliart_lora.scale import Stated
from wuliart_lora.tensor_values import Float32Array, largest, widened


class HadamardFactors(NamedTuple):
    """The factors of a LoHa, as the file has them."""

    w1_a: Tensor
    w1_b: Tensor
    w2_a: Tensor
    w2_b: Tensor
    scale: float

    def widened(self) -> LoraFactors:
        """Returns the factors of the LoRA in float32: row i * r2 + j is that of pair (i, j)."""
        down = _row_products(widened(self.w1_b), widened(self.w2_b))
        # By rows of the transposes: they are long, and a slot takes `up` transposed.
        up = _row_products(widened(self.w1_a).T, widened(self.w2_a).T)
        if self.scale != 1.0:
            up *= np.float32(self.scale)
        return LoraFactors(down, up.T, len(down))

    def bfloat16(self) -> LoraBits | None:
        """Returns None: the file does not hold the factors of the LoRA."""
        return None


def _row_products(first: Float32Array, second: Float32Array) -> Float32Array:
    """Returns the products of each row of `first` with each of `second`: float32 [r1 * r2, n]."""
    first, second = np.ascontiguousarray(first), np.ascontiguousarray(second)
    products: Float32Array = first[:, None, :] * second[None, :, :]
    return products.reshape(-1, first.shape[1])


def read_loha(
    tensors: Mapping[str, Tensor],
    module: str,
    roles: Mapping[Role, str],
    rank: int,
    stated: Stated | None,
) -> HadamardFactors:
    """Reads a module's LoHa factors, and checks that their products are finite, also when scaled.

    Args:
        tensors: the file's, by name.
        module: the module's path.
        roles: role -> name of the module's tensor.
        rank: of the first product.
        stated: the scale that is written outside of tensors, None if none is.

    Raises:
        LoraError: a value is not finite, or the `.alpha` tensor contradicts `stated`.
    """
    names = [roles[role] for role in LOHA_ROLES]
    w1_a, w1_b, w2_a, w2_b = (tensors[name] for name in names)
    scale = read_scale(tensors, module, roles, rank, stated)
    up_1, down_1, up_2, down_2 = (largest(name, tensors[name]) for name in names)
    with np.errstate(over="ignore"):
        up = up_1 * up_2
        finite = np.isfinite([down_1 * down_2, up, up * np.float32(scale)]).all()
    if not finite:
        raise LoraError(
            f"{shown(names[0])!r} and its other factors, multiplied, exceed the range of float32; "
            "the LoHa is damaged"
        )
    return HadamardFactors(w1_a, w1_b, w2_a, w2_b, scale)
