"""Joint attention on a GPU for any number of text tokens, with kernels chosen once.

Owns the split. cuDNN's attention is the fastest there is, but builds a plan for every new shape,
50 ms each, and a prompt's length is part of the shape. So it gets shapes that do not change: all
queries, padded to a multiple of `QUERIES`, against the image's keys alone. The text's keys, whose
number differs, are added by a kernel of ours, which goes on where the softmax stopped: attention
over two sets of keys is exactly the mean of both results, weighted by their sums of exponentials.
Padded queries give rows that nobody reads.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

from inference_server.model.kernels import ops

QUERIES = 128
"""What the number of queries is a multiple of: four shapes for prompts of 1 to 512 tokens, and the
kernels without an uneven end, 8 % faster (docs/decisions.md)."""

ROWS, KEYS = 64, 64
"""Queries and text keys that one program of the kernel below looks at together; with 128 queries a
step takes 3 ms more."""


@triton.jit(do_not_specialize=["rows", "first", "texts"])
def _text_keys_kernel(
    qkv,
    out,
    target,
    sums,
    rows,
    first,
    texts,
    heads,
    target_stride,
    softmax_scale,
    size: tl.constexpr,
    padded: tl.constexpr,
    queries: tl.constexpr,
    keys: tl.constexpr,
):
    head = tl.program_id(1)
    width = heads * size
    row = tl.program_id(0) * queries + tl.arange(0, queries)
    feature = tl.arange(0, padded)
    real = (feature < size)[None, :]
    column = head * size + feature[None, :]
    at = row.to(tl.int64)[:, None] * (3 * width) + column
    q = tl.load(qkv + at, mask=real, other=0.0)
    there = row.to(tl.int64)[:, None] * width + column
    result = tl.load(out + there, mask=real, other=0.0).to(tl.float32)
    largest = tl.load(sums + head * rows + row)
    total = tl.full((queries,), 1.0, tl.float32)
    for begin in range(0, texts, keys):
        text = begin + tl.arange(0, keys)
        inside = (text < texts)[:, None] & real
        key_at = (first + text).to(tl.int64)[:, None] * (3 * width) + column + width
        k = tl.load(qkv + key_at, mask=inside, other=0.0)
        v = tl.load(qkv + key_at + width, mask=inside, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * softmax_scale
        scores = tl.where((text < texts)[None, :], scores, float("-inf"))
        new = tl.maximum(largest, tl.max(scores, axis=1))
        p = tl.exp(scores - new[:, None])
        kept = tl.exp(largest - new)
        result = result * kept[:, None] + tl.dot(p.to(v.dtype), v, input_precision="ieee")
        total = total * kept + tl.sum(p, axis=1)
        largest = new
    there = row.to(tl.int64)[:, None] * target_stride + column
    tl.store(target + there, (result / total[:, None]).to(target.dtype.element_ty), mask=real)


def attention(qkv: Tensor, heads: int, texts: int, images: int, room: int = 0) -> Tensor:
    """See `ops.attention`."""
    rows, size = len(qkv), qkv.shape[1] // (3 * heads)
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        return ops.attention(qkv, heads, texts, images, room)
    q, k, v = qkv.unflatten(1, (3, heads, size)).permute(1, 2, 0, 3)[:, None]
    out, sums = with_sums(q, k[:, :, rows - images :], v[:, :, rows - images :])
    joint = out[0].transpose(0, 1).flatten(1)
    target = joint.new_empty(rows, joint.shape[1] + room)[:, : joint.shape[1]] if room else joint
    add_text_keys(joint, target, sums, qkv, heads, rows - images - texts, texts)
    return target


def add_text_keys(
    joint: Tensor, target: Tensor, sums: Tensor, qkv: Tensor, heads: int, first: int, texts: int
) -> None:
    """Goes on with a softmax over some keys.

    Args:
        joint: [rows, D], attention over the other keys.
        target: [rows, D], attention over all keys; may be `joint`.
        sums: heads * rows float32, the logarithm of its sum of exponentials.
        qkv: [rows, 3 D].
        heads: of D.
        first: row of the first text token.
        texts: number of text tokens.
    """
    rows, size = len(qkv), qkv.shape[1] // (3 * heads)
    _text_keys_kernel[(rows // ROWS, heads)](
        qkv,
        joint,
        target,
        sums,
        rows,
        first,
        texts,
        heads,
        target.stride(0),
        size**-0.5,
        size=size,
        padded=triton.next_power_of_2(size),
        queries=ROWS,
        keys=KEYS,
        num_warps=8,
    )


def with_sums(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Attention without a mask and the logarithm of each row's sum of exponentials.

    Args:
        q: [1, H, rows, E], half precision.
        k: [1, H, keys, E].
        v: [1, H, keys, E].

    Returns:
        [1, H, rows, E], in memory as `q`; and H * rows float32.
    """
    found = _fastest(q.shape[-1], q.dtype)(q, k, v)
    return found[0], found[1]


@cache
def _fastest(size: int, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Any]:
    """CuDNN's where it can, else flash attention; chosen at the first image."""
    probe = torch.empty(1, 1, QUERIES, size, dtype=dtype, device="cuda")
    if can_use_cudnn_attention(SDPAParams(probe, probe, probe, None, 0.0, False, False)):
        return lambda q, k, v: torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True
        )
    return torch.ops.aten._scaled_dot_product_flash_attention
