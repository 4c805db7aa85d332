"""What networks do between their products, as plain PyTorch: the definition, used on a CPU.

Owns the arithmetic that `triton_ops` does with fewer trips to memory; `ops_on` chooses between the
two modules. Nothing here knows of blocks, adapters or images. T text and I image tokens, D width,
H heads of E features.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.rope import Rotation, rotate

EPS = 1e-6
E4M3_MAX = 448.0
"""Largest number of float8_e4m3fn."""
TINY = 1e-12
"""Stands for the largest number, or the length, of a row of zeros."""


class HeadNorms(NamedTuple):
    """Scales of the RMS norms on queries and keys of one stream, [E] each, and its rotation."""

    query: Tensor
    key: Tensor
    rotation: Rotation


class Quantised(NamedTuple):
    """Rows of numbers in eight bits: values * scale."""

    values: Tensor
    """[rows, columns], float8_e4m3fn."""
    scale: Tensor
    """[rows, 1], float32."""


Normed = Tensor | Quantised
"""What a norm gives: [tokens, D], in eight bits if the product that reads it wants them."""


class Ops(NamedTuple):
    """One way to do it all; the functions below say what each does."""

    modulated_norm: Callable[[Tensor, Tensor, Tensor, bool, int], Normed]
    residual_norm_: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, bool, int], Normed]
    norm_rotate_: Callable[[Tensor, HeadNorms, HeadNorms], None]
    attention: Callable[[Tensor, int, int, int, int], Tensor]
    linear_gelu: Callable[[Tensor, Tensor, Tensor], Tensor]
    quantise: Callable[[Tensor, bool], Quantised]
    scaled_linear: Callable[[Quantised, Quantised, Tensor, Tensor | None], Tensor]
    channel_norm: Callable[[Tensor, Tensor, bool], Tensor]
    queries: int
    """What `attention` wants the number of rows to be a multiple of."""


def modulated_norm(
    x: Tensor, shift: Tensor, one_plus_scale: Tensor, eight: bool, room: int = 0
) -> Normed:
    """LayerNorm(x) * (1 + scale) + shift, [tokens, D]; the modulation is the norm's affine part.

    Args:
        x: [tokens, D].
        shift: [D].
        one_plus_scale: [D].
        eight: whether the result is wanted in eight bits.
        room: free columns behind the rows of a result that is not.
    """
    normed = F.layer_norm(x, (x.shape[-1],), one_plus_scale, shift, EPS)
    return quantise(normed) if eight else roomy(normed, room)


def residual_norm_(
    x: Tensor,
    branch: Tensor,
    gate: Tensor,
    shift: Tensor,
    one_plus_scale: Tensor,
    eight: bool,
    room: int = 0,
) -> Normed:
    """Adds gate * branch to x in place, [tokens, D]; returns the modulated norm of the sum."""
    return modulated_norm(x.addcmul_(gate, branch), shift, one_plus_scale, eight, room)


def roomy(x: Tensor, room: int) -> Tensor:
    """The same [rows, columns] with free columns behind each row."""
    return x.new_empty(len(x), x.shape[1] + room)[:, : x.shape[1]].copy_(x) if room else x


def norm_rotate_(qkv: Tensor, txt: HeadNorms, img: HeadNorms) -> None:
    """Norms and rotates queries and keys in place.

    Args:
        qkv: [T + I, 3 D]; text first; queries, keys and values of all heads side by side.
        txt: of the first T rows.
        img: of the others.
    """
    texts = len(txt.rotation.cos)
    for rows, norms in ((qkv[:texts], txt), (qkv[texts:], img)):
        size = norms.query.shape[0]
        queries, keys, _ = rows.unflatten(1, (3, -1, size)).unbind(1)
        for heads, scale in ((queries, norms.query), (keys, norms.key)):
            heads.copy_(rotate(F.rms_norm(heads, (size,), scale, EPS), norms.rotation))


def attention(qkv: Tensor, heads: int, texts: int, images: int, room: int = 0) -> Tensor:
    """Every token attends to every token, without a mask: one image has no padding.

    Args:
        qkv: [P + T + I, 3 D]; P rows in front round the number of rows up to a multiple of
            `Ops.queries` and hold anything.
        heads: H.
        texts: T.
        images: I.
        room: free columns behind the result's rows.

    Returns:
        [P + T + I, D], of which the first P rows mean nothing.
    """
    q, k, v = qkv.unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)[:, None]
    k, v = (t[:, :, len(qkv) - texts - images :] for t in (k, v))
    return roomy(F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1), room)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """gelu(x W^T + b), its tanh form."""
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def quantise(x: Tensor, gelu: bool = False) -> Quantised:
    """Each row as e4m3 with a scale of its own, so that its largest number becomes 448.

    Args:
        x: [rows, columns].
        gelu: whether gelu(x) is meant, its tanh form.
    """
    exact = x.float()
    if gelu:
        exact = F.gelu(exact, approximate="tanh")
    scale = exact.abs().amax(1, keepdim=True).clamp_min(TINY) / E4M3_MAX
    return Quantised((exact / scale).to(torch.float8_e4m3fn), scale)


def scaled_linear(x: Quantised, weight: Quantised, bias: Tensor, out: Tensor | None) -> Tensor:
    """X W^T + b in the bias's dtype; weight is [out, in], scaled row by row."""
    product = torch.addmm(
        bias.float(),
        x.values.float() * x.scale,
        (weight.values.float() * weight.scale).T,
    ).to(bias.dtype)
    return product if out is None else out.copy_(product)


def channel_norm(x: Tensor, gamma: Tensor, activate: bool) -> Tensor:
    """Length 1 over channels, times gamma, then SiLU if asked: how the VAE's branches begin.

    Args:
        x: [N, C, height, width], channels last in memory.
        gamma: [C].
        activate: whether SiLU follows.
    """
    # The normalised dimension is contiguous, and the permuted view is free.
    pixels = x.permute(0, 2, 3, 1)
    norm = torch.linalg.vector_norm(pixels, dim=-1, keepdim=True, dtype=torch.float32)
    scale = norm.clamp_min_(TINY).reciprocal_().to(x.dtype)
    y: Tensor = (pixels * scale).mul_(gamma)
    if activate:
        y = F.silu(y, inplace=True)
    return y.permute(0, 3, 1, 2)


PLAIN = Ops(
    modulated_norm,
    residual_norm_,
    norm_rotate_,
    attention,
    linear_gelu,
    quantise,
    scaled_linear,
    channel_norm,
    1,
)


def ops_on(device: torch.device) -> Ops:
    """Fused kernels on a GPU, plain PyTorch elsewhere."""
    if device.type != "cuda":
        return PLAIN
    # Triton is there on GPU machines alone.
    from inference_server.model.kernels.triton_ops import FUSED

    return FUSED
