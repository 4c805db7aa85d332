"""Joint attention for any number of text tokens, with GPU kernels chosen once.

cuDNN's attention is the fastest available, but it builds a plan of 50 ms for every new shape, and
the prompt's length is part of the shape. It therefore gets fixed shapes only: all queries, padded
to a multiple of `QUERY_MULTIPLE`, against the image's keys. A Triton kernel continues the softmax
over the text's keys, whose number varies: attention over two sets of keys is exactly the mean of
both results, weighted by their sums of exponentials. Padded queries produce rows that are not read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_cudnn_attention

from inference_server.model.kernels import reference

QUERY_MULTIPLE = 128
"""The number of queries is a multiple of this: four shapes cover prompts of 1 to 512 tokens, and
kernels without a partial tile are 8 % faster (docs/decisions.md)."""

ROWS, KEYS = 64, 64
"""Queries and text keys per tile of `_text_keys_kernel`; with 128 queries a step takes 3 ms
more (H200)."""


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
    """Continues one head's softmax over the text's keys, for `queries` rows.

    Grid: (rows / queries, heads). qkv is [rows, 3 * heads * size], half precision; text tokens are
    rows `first` to `first + texts`. out is [rows, heads * size], attention over the image's keys;
    sums [heads, rows] float32, the logarithm of each row's sum of exponentials there. Writes
    target [rows, heads * size], with `target_stride` elements between rows. `padded` is the power
    of two that holds a head. The running maximum and sum are those of online softmax
    (FlashAttention); the image's part enters with maximum `sums` and sum 1.
    """
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


def attention(
    qkv: Tensor,
    *,
    heads: int,
    text_tokens: int,
    image_tokens: int,
    spare_columns: int = 0,
) -> Tensor:
    """See `Operations`."""
    rows, size = len(qkv), qkv.shape[1] // (3 * heads)
    if qkv.dtype not in (torch.bfloat16, torch.float16):
        return reference.attention(
            qkv,
            heads=heads,
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            spare_columns=spare_columns,
        )
    q, k, v = qkv.unflatten(1, (3, heads, size)).permute(1, 2, 0, 3)[:, None]
    first_image = rows - image_tokens
    out, sums = with_sums(q, k[:, :, first_image:], v[:, :, first_image:])
    joint = out[0].transpose(0, 1).flatten(1)
    target = joint
    if spare_columns:
        width = joint.shape[1]
        target = joint.new_empty(rows, width + spare_columns)[:, :width]
    add_text_keys(
        joint,
        target,
        sums,
        qkv=qkv,
        heads=heads,
        first=first_image - text_tokens,
        text_tokens=text_tokens,
    )
    return target


def add_text_keys(
    joint: Tensor,
    target: Tensor,
    sums: Tensor,
    *,
    qkv: Tensor,
    heads: int,
    first: int,
    text_tokens: int,
) -> None:
    """Extends attention over the image's keys to the text's keys.

    Args:
        joint: [rows, D], attention over the image's keys.
        target: [rows, D], receives attention over all keys; may be `joint`.
        sums: heads * rows float32, the logarithm of each row's sum of exponentials in `joint`.
        qkv: [rows, 3 D].
        heads: H.
        first: row of the first text token.
        text_tokens: T.
    """
    rows, size = len(qkv), qkv.shape[1] // (3 * heads)
    _text_keys_kernel[(rows // ROWS, heads)](
        qkv,
        joint,
        target,
        sums,
        rows,
        first,
        text_tokens,
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
    """Computes attention without a mask and the logarithm of each row's sum of exponentials.

    Args:
        q: [1, H, rows, E], half precision.
        k: [1, H, keys, E].
        v: [1, H, keys, E].

    Returns:
        [1, H, rows, E], laid out in memory as `q`; and H * rows float32.
    """
    found = _fastest(q.shape[-1], q.dtype)(q, k, v)
    return found[0], found[1]


@cache
def _fastest(size: int, dtype: torch.dtype) -> Callable[[Tensor, Tensor, Tensor], Sequence[Tensor]]:
    """Returns cuDNN's attention where it is supported, else flash attention."""
    probe = torch.empty(1, 1, QUERY_MULTIPLE, size, dtype=dtype, device="cuda")
    if can_use_cudnn_attention(SDPAParams(probe, probe, probe, None, 0.0, False, False)):
        return lambda q, k, v: torch.ops.aten._scaled_dot_product_cudnn_attention(
            q, k, v, None, True
        )
    return torch.ops.aten._scaled_dot_product_flash_attention
