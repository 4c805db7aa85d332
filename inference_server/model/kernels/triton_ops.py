"""`Operations` as fused Triton kernels: one pass over memory each, float32 inside.

Token counts are run-time values that no kernel is specialised on, so after the first image no
prompt length causes a compilation.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.kernels.operations import E4M3_MAX, EPS, TINY, HeadNorms, Quantized
from inference_server.model.kernels.triton_attention import QUERY_MULTIPLE, attention
from inference_server.model.kernels.triton_kronecker import add_kronecker_
from inference_server.model.kernels.triton_norms import channel_norm, modulated_norm, residual_norm_

__all__ = [
    "QUERY_MULTIPLE",
    "add_kronecker_",
    "attention",
    "channel_norm",
    "linear_gelu",
    "modulated_norm",
    "norm_rotate_",
    "quantize",
    "residual_norm_",
    "scaled_linear",
]


@triton.jit(do_not_specialize=["texts"])
def _norm_rotate_kernel(
    qkv,
    txt_query,
    txt_key,
    txt_cos,
    txt_sin,
    img_query,
    img_key,
    img_cos,
    img_sin,
    texts,
    heads,
    eps,
    size: tl.constexpr,
    padded: tl.constexpr,
    group: tl.constexpr,
):
    """Norms and rotates `group` heads of one token's queries or keys, in place.

    Grid: (T + I, 2 for queries and keys, ceil(heads / group)). qkv is [T + I, 3 * heads * size],
    the first `texts` rows text. Scales are [size], cosines and sines [tokens, size / 2] float32.
    Computes x / sqrt(mean(x^2) + eps) * scale, then rotates neighbouring pairs. `padded` is the
    power of two that holds a head.
    """
    token = tl.program_id(0)
    part = tl.program_id(1)
    head = tl.program_id(2) * group + tl.arange(0, group)[:, None]
    feature = tl.arange(0, padded)
    pair = tl.arange(0, padded // 2)[None, :]
    if token < texts:
        scale = txt_query if part == 0 else txt_key
        cos, sin, position = txt_cos, txt_sin, token
    else:
        scale = img_query if part == 0 else img_key
        cos, sin, position = img_cos, img_sin, token - texts
    inside = (head < heads) & (feature < size)[None, :]
    row = qkv + token.to(tl.int64) * (3 * heads * size) + part * heads * size
    at = row + head * size + feature[None, :]
    # Pairs are loaded together and split in registers; strided loads would waste half the bytes.
    value = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    power = tl.sum(value * value, axis=1)[:, None] / size
    value *= tl.rsqrt(power + eps)
    value *= tl.load(scale + feature, mask=feature < size, other=0.0).to(tl.float32)[None, :]
    even, odd = tl.split(tl.reshape(value, (group, padded // 2, 2)))
    c = tl.load(cos + position * (size // 2) + pair, mask=pair < size // 2, other=0.0)
    s = tl.load(sin + position * (size // 2) + pair, mask=pair < size // 2, other=0.0)
    turned = tl.reshape(tl.join(even * c - odd * s, even * s + odd * c), (group, padded))
    tl.store(at, turned.to(qkv.dtype.element_ty), mask=inside)


HEADS_TOGETHER = 32
"""Most heads per program of `_norm_rotate_kernel`."""


def norm_rotate_(qkv: Tensor, txt: HeadNorms, img: HeadNorms) -> None:
    """See `Operations`."""
    size = img.query.shape[0]
    heads = qkv.shape[1] // (3 * size)
    group = min(HEADS_TOGETHER, triton.next_power_of_2(heads))
    _norm_rotate_kernel[(len(qkv), 2, triton.cdiv(heads, group))](
        qkv,
        txt.query,
        txt.key,
        *txt.rotation,
        img.query,
        img.key,
        *img.rotation,
        len(txt.rotation.cos),
        heads,
        EPS,
        size=size,
        padded=triton.next_power_of_2(size),
        group=group,
        num_warps=4,
    )


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `Operations`; the activation is the product's epilogue in cuBLASLt."""
    return torch._addmm_activation(bias, x, weight.T, use_gelu=True)


@triton.jit
def _quantize_kernel(
    x, values, scales, width, largest, tiny, gelu: tl.constexpr, padded: tl.constexpr
):
    """Quantizes one row to e4m3 with the scale max|x| / 448, after gelu if `gelu`.

    Grid: (rows,). x and values are [rows, width], contiguous; scales [rows] float32. `padded` is
    the power of two that holds a row. The constants are those of the tanh approximation:
    2 * sqrt(2 / pi) and 0.044715.
    """
    row = tl.program_id(0)
    columns = tl.arange(0, padded)
    inside = columns < width
    at = row.to(tl.int64) * width + columns
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if gelu:
        # tanh(z) = 2 sigmoid(2 z) - 1, so that gelu is x sigmoid(2 z).
        inner = 1.5957691216057308 * (value + 0.044715 * value * value * value)
        value = value * tl.sigmoid(inner)
    scale = tl.maximum(tl.max(tl.abs(value), axis=0), tiny) / largest
    tl.store(scales + row, scale)
    tl.store(values + at, (value / scale).to(values.dtype.element_ty), mask=inside)


def quantize(x: Tensor, *, gelu: bool = False) -> Quantized:
    """See `Operations`."""
    rows, width = x.shape
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(rows, 1, device=x.device)
    padded = triton.next_power_of_2(width)
    _quantize_kernel[(rows,)](
        x, values, scale, width, E4M3_MAX, TINY, gelu=gelu, padded=padded, num_warps=8
    )
    return Quantized(values, scale)


def scaled_linear(
    x: Quantized, weight: Quantized, bias: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """See `Operations`; float8 products of the tensor cores."""
    return torch._scaled_mm(
        x.values,
        weight.values.T,
        x.scale,
        weight.scale.T,
        bias=bias,
        out_dtype=bias.dtype,
        use_fast_accum=True,
        out=out,
    )
