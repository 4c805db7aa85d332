"""The functions of `ops` as fused GPU kernels: one trip to memory each, in float32 inside.

Owns the kernels. Token counts are run-time values that nothing is specialised on, so that no
prompt, however long, has anything compiled after the first picture.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.ops import E4M3_MAX, EPS, TINY, HeadNorms, Normed, Ops, Quantised
from inference_server.model.triton_attention import QUERIES, attention


@triton.jit
def _norm_kernel(
    x,
    branch,
    gate,
    shift,
    scale,
    out,
    row_scales,
    width,
    eps,
    largest,
    tiny,
    add: tl.constexpr,
    eight: tl.constexpr,
    padded: tl.constexpr,
):
    row = tl.program_id(0)
    columns = tl.arange(0, padded)
    inside = columns < width
    at = row * width + columns
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if add:
        added = tl.load(branch + at, mask=inside, other=0.0).to(tl.float32)
        value += tl.load(gate + columns, mask=inside, other=0.0).to(tl.float32) * added
        tl.store(x + at, value.to(x.dtype.element_ty), mask=inside)
    mean = tl.sum(value, axis=0) / width
    centred = tl.where(inside, value - mean, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred, axis=0) / width + eps)
    normed *= tl.load(scale + columns, mask=inside, other=0.0).to(tl.float32)
    normed += tl.load(shift + columns, mask=inside, other=0.0).to(tl.float32)
    if eight:
        row_scale = tl.maximum(tl.max(tl.abs(normed), axis=0), tiny) / largest
        tl.store(row_scales + row, row_scale)
        normed /= row_scale
    tl.store(out + at, normed.to(out.dtype.element_ty), mask=inside)


def _norm(
    x: Tensor, branch: Tensor, modulation: tuple[Tensor, Tensor, Tensor], add: bool, eight: bool
) -> Normed:
    tokens, width = x.shape
    out = torch.empty_like(x, dtype=torch.float8_e4m3fn if eight else x.dtype)
    scales = torch.empty(tokens, 1, device=x.device) if eight else None
    _norm_kernel[(tokens,)](
        x,
        branch,
        *modulation,
        out,
        out if scales is None else scales,
        width,
        EPS,
        E4M3_MAX,
        TINY,
        add=add,
        eight=eight,
        padded=triton.next_power_of_2(width),
        num_warps=8,
    )
    return out if scales is None else Quantised(out, scales)


def modulated_norm(x: Tensor, shift: Tensor, one_plus_scale: Tensor, eight: bool) -> Normed:
    """See `ops.modulated_norm`."""
    return _norm(x, x, (shift, shift, one_plus_scale), False, eight)


def residual_norm_(
    x: Tensor, branch: Tensor, gate: Tensor, shift: Tensor, one_plus_scale: Tensor, eight: bool
) -> Normed:
    """See `ops.residual_norm_`."""
    return _norm(x, branch, (gate, shift, one_plus_scale), True, eight)


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


@triton.jit
def _channel_norm_kernel(
    x,
    gamma,
    out,
    pixels,
    channels,
    activate: tl.constexpr,
    padded: tl.constexpr,
    rows: tl.constexpr,
):
    pixel = tl.program_id(0) * rows + tl.arange(0, rows)[:, None]
    channel = tl.arange(0, padded)[None, :]
    inside = (pixel < pixels) & (channel < channels)
    at = pixel.to(tl.int64) * channels + channel
    value = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(value * value, axis=1))[:, None]
    value /= tl.maximum(norm, 1e-12)
    value *= tl.load(gamma + channel, mask=channel < channels, other=0.0).to(tl.float32)
    if activate:
        value *= tl.sigmoid(value)
    tl.store(out + at, value.to(out.dtype.element_ty), mask=inside)


CHANNELS_TOGETHER = 4096
"""Numbers that one program of the kernel above norms: as many pixels as have them."""


def channel_norm(x: Tensor, gamma: Tensor, activate: bool) -> Tensor:
    """See `ops.channel_norm`."""
    x = x.contiguous(memory_format=torch.channels_last)
    out = torch.empty_like(x)
    channels = x.shape[1]
    pixels = x.numel() // channels
    padded = triton.next_power_of_2(channels)
    rows = max(1, CHANNELS_TOGETHER // padded)
    _channel_norm_kernel[(triton.cdiv(pixels, rows),)](
        x, gamma, out, pixels, channels, activate=activate, padded=padded, rows=rows, num_warps=8
    )
    return out


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
