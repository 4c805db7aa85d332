"""`Operations` in plain PyTorch: the definition that the kernels are tested against.

Used on the CPU. Shapes and arguments are those of `operations.Operations`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.kernels.operations import (
    E4M3_MAX,
    EPS,
    TINY,
    HeadNorms,
    KroneckerProduct,
    Normed,
    Quantized,
)
from inference_server.model.rope import rotate

QUERY_MULTIPLE = 1

TOKENS_TOGETHER = 512
"""Tokens whose Kronecker products are computed at a time; bounds the temporaries."""


def pad_columns(x: Tensor, spare_columns: int) -> Tensor:
    """Copies [rows, columns] into memory with uninitialised columns behind each row.

    Returns:
        [rows, columns], a view; x itself if `spare_columns` is 0.
    """
    if not spare_columns:
        return x
    return x.new_empty(len(x), x.shape[1] + spare_columns)[:, : x.shape[1]].copy_(x)


def modulated_norm(
    x: Tensor,
    shift: Tensor,
    one_plus_scale: Tensor,
    *,
    quantized: bool,
    spare_columns: int = 0,
) -> Normed:
    """See `Operations`; the modulation is the affine part of `layer_norm`."""
    normed = F.layer_norm(x, (x.shape[-1],), one_plus_scale, shift, EPS)
    return quantize(normed) if quantized else pad_columns(normed, spare_columns)


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
    return modulated_norm(
        x.addcmul_(gate, branch),
        shift,
        one_plus_scale,
        quantized=quantized,
        spare_columns=spare_columns,
    )


def norm_rotate_(qkv: Tensor, txt: HeadNorms, img: HeadNorms) -> None:
    """See `Operations`."""
    text_tokens = len(txt.rotation.cos)
    for rows, norms in ((qkv[:text_tokens], txt), (qkv[text_tokens:], img)):
        size = norms.query.shape[0]
        queries, keys, _ = rows.unflatten(1, (3, -1, size)).unbind(1)
        for heads, scale in ((queries, norms.query), (keys, norms.key)):
            heads.copy_(rotate(F.rms_norm(heads, (size,), scale, EPS), norms.rotation))


def attention(
    qkv: Tensor,
    *,
    heads: int,
    text_tokens: int,
    image_tokens: int,
    spare_columns: int = 0,
) -> Tensor:
    """See `Operations`."""
    q, k, v = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)[:, None]
    k, v = (t[:, :, len(qkv) - text_tokens - image_tokens :] for t in (k, v))
    attended = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
    return pad_columns(attended, spare_columns)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """See `Operations`."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def add_kronecker_(
    y: Tensor,
    x: Tensor,
    products: Sequence[KroneckerProduct],
    gate: float,
    *,
    gelu: bool = False,
) -> None:
    """See `Operations`."""
    for part, first, second in products:
        (a, b), (c, d) = first.shape, second.shape
        columns = y[:, part * a * c : (part + 1) * a * c]
        for some, target in zip(
            x.split(TOKENS_TOGETHER), columns.split(TOKENS_TOGETHER), strict=True
        ):
            added = first @ (some.unflatten(1, (b, d)) @ second.T)
            target.add_(added.flatten(1), alpha=gate)
    if gelu:
        y.copy_(F.gelu(y, approximate="tanh"))


def quantize(x: Tensor, *, gelu: bool = False) -> Quantized:
    """See `Operations`."""
    exact = x.float()
    if gelu:
        exact = F.gelu(exact, approximate="tanh")
    scale = exact.abs().amax(1, keepdim=True).clamp_min(TINY) / E4M3_MAX
    return Quantized((exact / scale).to(torch.float8_e4m3fn), scale)


def scaled_linear(
    x: Quantized, weight: Quantized, bias: Tensor, *, out: Tensor | None = None
) -> Tensor:
    """See `Operations`; multiplies in float32."""
    product = torch.addmm(
        bias.float(),
        x.values.float() * x.scale,
        (weight.values.float() * weight.scale).T,
    ).to(bias.dtype)
    return product if out is None else out.copy_(product)


def channel_norm(x: Tensor, gamma: Tensor, *, activate: bool) -> Tensor:
    """See `Operations`."""
    # With channels last, the permuted view is free and the normalised dimension contiguous.
    pixels = x.permute(0, 2, 3, 1)
    norm = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True, dtype=torch.float32)
    scale = norm.clamp_min_(TINY).reciprocal_().to(x.dtype)
    y: Tensor = (pixels * scale).mul_(gamma)
    if activate:
        y = F.silu(y, inplace=True)
    return y.permute(0, 3, 1, 2)
