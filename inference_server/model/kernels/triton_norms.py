"""The norms of `Operations` as fused Triton kernels: one pass over memory each, float32 inside."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.kernels.operations import E4M3_MAX, EPS, TINY, Normed, Quantized


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
    quantized: tl.constexpr,
    padded: tl.constexpr,
):
    """Norms one row: LayerNorm(x) * scale + shift, of x + gate * branch if `add`.

    Grid: (tokens,). x and branch are [tokens, width], contiguous; gate, shift and scale [width]. x
    is updated in place if `add`. out is [tokens, width] with `out_stride` elements between rows: in
    x's dtype, or e4m3 with row_scales [tokens] float32 if `quantized`. `padded` is the power of two
    that holds a row.
    """
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
    if quantized:
        row_scale = tl.maximum(tl.max(tl.abs(normed), axis=0), tiny) / largest
        tl.store(row_scales + row, row_scale)
        normed /= row_scale
    tl.store(out + row * out_stride + columns, normed.to(out.dtype.element_ty), mask=inside)


def _norm(
    x: Tensor,
    branch: Tensor,
    modulation: tuple[Tensor, Tensor, Tensor],
    *,
    add: bool,
    quantized: bool,
    spare_columns: int,
) -> Normed:
    tokens, width = x.shape
    whole = width if quantized else width + spare_columns
    out = x.new_empty(tokens, whole, dtype=torch.float8_e4m3fn if quantized else x.dtype)
    out = out[:, :width]
    scales = torch.empty(tokens, 1, device=x.device) if quantized else None
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
        quantized=quantized,
        padded=triton.next_power_of_2(width),
        num_warps=8,
    )
    return out if scales is None else Quantized(out, scales)


def modulated_norm(
    x: Tensor,
    shift: Tensor,
    one_plus_scale: Tensor,
    *,
    quantized: bool,
    spare_columns: int = 0,
) -> Normed:
    """See `Operations`."""
    modulation = (shift, shift, one_plus_scale)
    return _norm(x, x, modulation, add=False, quantized=quantized, spare_columns=spare_columns)


def residual_norm_(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    *,
    shift: Tensor,
    one_plus_scale: Tensor,
    quantized: bool,
    spare_columns: int = 0,
) -> Normed:
    """See `Operations`."""
    modulation = (gate, shift, one_plus_scale)
    return _norm(x, branch, modulation, add=True, quantized=quantized, spare_columns=spare_columns)


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
    """Norms `rows` pixels: x / |x| * gamma over channels, then SiLU if `activate`.

    Grid: (ceil(pixels / rows),). x and out are [pixels, channels], gamma [channels]. `padded` is
    the power of two that holds a pixel's channels. 1e-12 is `operations.TINY`.
    """
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
"""Elements per program of `_channel_norm_kernel`; decides how many pixels it norms together."""


def channel_norm(x: Tensor, gamma: Tensor, *, activate: bool) -> Tensor:
    """See `Operations`."""
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
