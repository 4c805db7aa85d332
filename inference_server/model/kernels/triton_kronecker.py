"""An adapter's Kronecker products as a fused Triton kernel: x and y cross memory once.

A token of x is a matrix X [b, d]; first X second^T is two products of tiles that fit a program's
registers. In separate steps each product would write and read a tensor of y's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.kernels import reference
from inference_server.model.kernels.operations import KroneckerProduct

LARGEST: Final = 128
"""Most rows and columns of first for the kernel; trainers' defaults have at most 96."""

DEEPEST: Final = 512
"""Most columns of second for the kernel; trainers' defaults have at most 128. A larger product is
bound by arithmetic, and the reference's are as fast."""

ROWS: Final = 64
"""Rows that a product should have: several tokens share one if first is smaller."""

GROUPS: Final = 8
"""Groups of tokens per program, which reads the factors once for all."""

STAGES: Final = 2
"""Pipeline stages: three would need more shared memory than an RTX 4090 has."""


@triton.jit(do_not_specialize=["tokens", "gate"])
def _kronecker_kernel(
    x,
    y,
    first_0,
    second_0,
    first_1,
    second_1,
    first_2,
    second_2,
    tokens,
    x_stride,
    y_stride,
    gate,
    products: tl.constexpr,
    a: tl.constexpr,
    b: tl.constexpr,
    c: tl.constexpr,
    d: tl.constexpr,
    together: tl.constexpr,
    groups: tl.constexpr,
    rows: tl.constexpr,
    inner: tl.constexpr,
    wide: tl.constexpr,
    deep: tl.constexpr,
    gelu: tl.constexpr,
):
    """Adds gate * first X second^T to y for `groups * together` tokens and `wide` of c columns.

    Grid: (products * ceil(c / wide) * ceil(tokens / (groups * together)),), products first, so that
    those of one x run at the same time and read it from the cache. x is [tokens, b * d] and y
    [tokens, ...] with strides between rows; product p has first_p [a, b], second_p [c, d], and the
    columns of y that y_p points to behind p * a * c. `together` tokens are one product: their
    matrices lie below each other, X [together * b, d], and first stands `together` times on the
    diagonal of a matrix [rows, inner]. `rows` >= together * a, `inner` >= together * b, `wide` and
    `deep`, the features of d in a step, are powers of two. Sums are float32; first X is rounded to
    x's dtype. gelu is the tanh approximation, see `triton_ops`.
    """
    number = tl.program_id(0)
    product = number % products
    tile = number // products % tl.cdiv(c, wide)
    start = number // (products * tl.cdiv(c, wide)) * groups * together
    first, second = first_0, second_0
    if product == 1:
        first, second = first_1, second_1
    if product == 2:
        first, second = first_2, second_2
    row = tl.arange(0, rows)
    inside = tl.arange(0, inner)
    step = tl.arange(0, deep)
    column = tile * wide + tl.arange(0, wide)
    own = (row // a)[:, None] == (inside // b)[None, :]
    own &= (row < together * a)[:, None] & (inside < together * b)[None, :]
    diagonal = tl.load(first + (row % a)[:, None] * b + (inside % b)[None, :], mask=own, other=0.0)
    for group in range(groups):
        token = start + group * together
        source = token + inside // b
        known = (source < tokens) & (inside < together * b)
        inputs = x + source.to(tl.int64)[:, None] * x_stride + ((inside % b) * d)[:, None]
        target = token + row // a
        there = ((target < tokens) & (row < together * a))[:, None] & (column < c)[None, :]
        out = y + target.to(tl.int64)[:, None] * y_stride + product * a * c
        out += ((row % a) * c)[:, None] + column[None, :]
        # Loaded before the products, which hide its latency.
        value = tl.load(out, mask=there, other=0.0)
        total = tl.zeros((rows, wide), tl.float32)
        for begin in range(0, d, deep):
            at = begin + step
            matrices = tl.load(
                inputs + at[None, :], mask=known[:, None] & (at < d)[None, :], other=0.0
            )
            mixed = tl.dot(diagonal, matrices, input_precision="ieee").to(x.dtype.element_ty)
            factor = tl.load(
                second + column[None, :] * d + at[:, None],
                mask=(column < c)[None, :] & (at < d)[:, None],
                other=0.0,
            )
            total = tl.dot(mixed, factor, total, input_precision="ieee")
        value = value.to(tl.float32) + gate * total
        if gelu:
            value *= tl.sigmoid(1.5957691216057308 * (value + 0.044715 * value * value * value))
        tl.store(out, value.to(y.dtype.element_ty), mask=there)


def add_kronecker_(
    y: Tensor,
    x: Tensor,
    products: Sequence[KroneckerProduct],
    gate: float,
    *,
    gelu: bool = False,
) -> None:
    """See `Operations`; products of one shape for all parts are one launch."""
    shapes = {(product.first.shape, product.second.shape) for product in products}
    parts = [product.part for product in products]
    whole = len(shapes) == 1 and parts in ([0], [0, 1, 2])
    for some in (products,) if whole else ([product] for product in products):
        _add(y, x, some, gate, gelu=gelu)


def _add(
    y: Tensor, x: Tensor, products: Sequence[KroneckerProduct], gate: float, *, gelu: bool
) -> None:
    """Adds products of one shape whose parts follow one another."""
    (a, b), (c, d) = products[0].first.shape, products[0].second.shape
    if max(a, b) > LARGEST or d > DEEPEST:
        reference.add_kronecker_(y, x, products, gate, gelu=gelu)
        return
    together = max(1, ROWS // max(a, b))
    rows, inner = (max(16, triton.next_power_of_2(together * size)) for size in (a, b))
    wide, deep = (max(16, triton.next_power_of_2(size)) for size in (c, d))
    wide, deep = min(wide, 128), min(deep, 64)
    tokens = len(x)
    factors = [t for _, first, second in products for t in (first, second)]
    _kronecker_kernel[
        (len(products) * triton.cdiv(c, wide) * triton.cdiv(tokens, GROUPS * together),)
    ](
        x,
        y[:, products[0].part * a * c :],
        *(factors * 3)[:6],
        tokens,
        x.stride(0),
        y.stride(0),
        gate,
        products=len(products),
        a=a,
        b=b,
        c=c,
        d=d,
        together=together,
        groups=GROUPS,
        rows=rows,
        inner=inner,
        wide=wide,
        deep=deep,
        gelu=gelu,
        num_warps=8 if rows * wide > 8192 else 4,
        num_stages=STAGES,
    )
