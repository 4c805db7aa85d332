"""The norms of `ops` as fused GPU kernels: one trip to memory each, in float32 inside.

Owns these kernels; nothing in them is specialised on a number of tokens.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.kernels.ops import E4M3_MAX, EPS, TINY, Normed, Quantised


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
    out_stride,
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
    tl.store(out + row * out_stride + columns, normed.to(out.dtype.element_ty), mask=inside)


def _norm(
    x: Tensor,
    branch: Tensor,
    modulation: tuple[Tensor, Tensor, Tensor],
    add: bool,
    eight: bool,
    room: int,
) -> Normed:
    tokens, width = x.shape
    whole = width if eight else width + room
    out = x.new_empty(tokens, whole, dtype=torch.float8_e4m3fn if eight else x.dtype)[:, :width]
    scales = torch.empty(tokens, 1, device=x.device) if eight else None
    _norm_kernel[(tokens,)](
        x,
        branch,
        *modulation,
        out,
        out if scales is None else scales,
        width,
        whole,
        EPS,
        E4M3_MAX,
        TINY,
        add=add,
        eight=eight,
        padded=triton.next_power_of_2(width),
        num_warps=8,
    )
    return out if scales is None else Quantised(out, scales)


def modulated_norm(
    x: Tensor, shift: Tensor, one_plus_scale: Tensor, eight: bool, room: int = 0
) -> Normed:
    """See `ops.modulated_norm`."""
    return _norm(x, x, (shift, shift, one_plus_scale), False, eight, room)


def residual_norm_(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    one_plus_scale: Tensor,
    eight: bool,
    room: int = 0,
) -> Normed:
    """See `ops.residual_norm_`."""
    return _norm(x, branch, (gate, shift, one_plus_scale), True, eight, room)


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
