"""The functions of `ops` as fused GPU kernels: one trip to memory each, in float32 inside.

Owns those that are neither norms nor attention, and the whole set. Token counts are run-time values
that nothing is specialised on: no prompt has anything compiled after the first image.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.kernels.ops import E4M3_MAX, EPS, TINY, HeadNorms, Ops, Quantised
from inference_server.model.kernels.triton_attention import QUERIES, attention
from inference_server.model.kernels.triton_norms import channel_norm, modulated_norm, residual_norm_


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
    # Neighbours in memory are read together and parted in registers: read two apart, each half
    # of the bytes that a load brings is thrown away.
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
"""Heads that one program of the kernel above norms and rotates, at most."""


def norm_rotate_(qkv: Tensor, txt: HeadNorms, img: HeadNorms) -> None:
    """See `ops.norm_rotate_`."""
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
    """See `ops.linear_gelu`; the activation is cuBLASLt's epilogue of the product."""
    return torch._addmm_activation(bias, x, weight.T, use_gelu=True)


@triton.jit
def _quantise_kernel(
    x, values, scales, width, largest, tiny, gelu: tl.constexpr, padded: tl.constexpr
):
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


def quantise(x: Tensor, gelu: bool = False) -> Quantised:
    """See `ops.quantise`."""
    rows, width = x.shape
    values = torch.empty_like(x, dtype=torch.float8_e4m3fn)
    scale = torch.empty(rows, 1, device=x.device)
    padded = triton.next_power_of_2(width)
    _quantise_kernel[(rows,)](
        x, values, scale, width, E4M3_MAX, TINY, gelu=gelu, padded=padded, num_warps=8
    )
    return Quantised(values, scale)


def scaled_linear(x: Quantised, weight: Quantised, bias: Tensor, out: Tensor | None) -> Tensor:
    """See `ops.scaled_linear`; the products are the tensor cores' own."""
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


FUSED = Ops(
    modulated_norm,
    residual_norm_,
    norm_rotate_,
    attention,
    linear_gelu,
    quantise,
    scaled_linear,
    channel_norm,
    QUERIES,
)
