"""Dequantises the blocks of GGUF's quantization types to float32.

A block holds a few quantized elements and the scales they share. Every function fills `out`,
[blocks, elements of a block] float32, from `blocks`, [blocks, bytes of a block] uint8, and from
the float16 scales of each block, already widened to [blocks, 1]. The order of the float32
operations is that of llama.cpp's Python package gguf, so results are equal to its bit for bit.

Source of the layouts: ggml-common.h and ggml-quants.c of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor

FillBlocks = Callable[..., None]
"""(blocks, out, *scales)"""

_SIXTEENS: Final = ((torch.arange(256)[:, None] >> torch.arange(8) & 1) << 4).to(torch.uint8)
"""[256, 8]: 16 for every bit of a byte that is set, the lowest bit first."""


def q4_0(blocks: Tensor, out: Tensor, d: Tensor) -> None:
    """Dequantises y = d (q - 8); a byte holds elements i and i + 16."""
    _fill_nibbles(blocks[:, 2:], out)
    out.sub_(8).mul_(d)


def q4_1(blocks: Tensor, out: Tensor, d: Tensor, m: Tensor) -> None:
    """Dequantises y = d q + m."""
    _fill_nibbles(blocks[:, 4:], out)
    out.mul_(d).add_(m)


def q5_0(blocks: Tensor, out: Tensor, d: Tensor) -> None:
    """Dequantises y = d (q - 16); the fifth bits of all elements lie before their nibbles."""
    _fill_nibbles(blocks[:, 6:], out, blocks[:, 2:6])
    out.sub_(16).mul_(d)


def q5_1(blocks: Tensor, out: Tensor, d: Tensor, m: Tensor) -> None:
    """Dequantises y = d q + m."""
    _fill_nibbles(blocks[:, 8:], out, blocks[:, 4:8])
    out.mul_(d).add_(m)


def q8_0(blocks: Tensor, out: Tensor, d: Tensor) -> None:
    """Dequantises y = d q."""
    out.copy_(blocks[:, 2:].view(torch.int8))
    out.mul_(d)


def q2_k(blocks: Tensor, out: Tensor, d: Tensor, dmin: Tensor) -> None:
    """Dequantises y = d s q - dmin m; s and m are four bits for 16 elements."""
    scales = blocks[:, :16]
    _fill_pairs(blocks[:, 16:80], out)
    groups = out.unflatten(1, (16, 16))
    groups.mul_(((scales & 15) * d)[..., None])
    groups.sub_(((scales >> 4) * dmin)[..., None])


def q3_k(blocks: Tensor, out: Tensor, d: Tensor) -> None:
    """Dequantises y = d (s - 32) (q - 4); s has six bits, q its third bit in the first 32 bytes."""
    _fill_pairs(blocks[:, 32:96], out, blocks[:, :32])
    low, high = blocks[:, 96:104], blocks[:, 104:108]
    fours = torch.cat([low & 15, low >> 4], 1)
    twos = torch.cat([high >> shift & 3 for shift in (0, 2, 4, 6)], 1)
    scales = (fours | twos << 4).float().sub_(32).mul_(d)
    out.sub_(4).unflatten(1, (16, 16)).mul_(scales[..., None])


def q4_k(blocks: Tensor, out: Tensor, d: Tensor, dmin: Tensor) -> None:
    """Dequantises y = d s q - dmin m; s and m are six bits for 32 elements."""
    pairs, halves = out.unflatten(1, (4, 2, 32)), blocks[:, 16:].unflatten(1, (4, 32))
    pairs[:, :, 0] = halves & 15
    pairs[:, :, 1] = halves >> 4
    _scale_32(blocks, out, d, dmin)


def q5_k(blocks: Tensor, out: Tensor, d: Tensor, dmin: Tensor) -> None:
    """Dequantises as q4_k; a byte of the fifth bits has one for each of the eight groups."""
    groups, halves = out.unflatten(1, (8, 32)), blocks[:, 48:].unflatten(1, (4, 32))
    high = blocks[:, 16:48]
    for group in range(8):
        half = halves[:, group // 2]
        groups[:, group] = (half >> 4 if group % 2 else half & 15) | (high >> group & 1) << 4
    _scale_32(blocks, out, d, dmin)


def q6_k(blocks: Tensor, out: Tensor, d: Tensor) -> None:
    """Dequantises y = d s (q - 32); s is an int8 for 16 elements."""
    groups = out.unflatten(1, (2, 4, 32))
    low, high = blocks[:, :128].unflatten(1, (2, 2, 32)), blocks[:, 128:192].unflatten(1, (2, 32))
    for group in range(4):
        half = low[:, :, group % 2]
        nibble = half >> 4 if group >= 2 else half & 15
        groups[:, :, group] = nibble | (high >> 2 * group & 3) << 4
    scales = blocks[:, 192:208].view(torch.int8) * d
    out.sub_(32).unflatten(1, (16, 16)).mul_(scales[..., None])


def _fill_nibbles(nibbles: Tensor, out: Tensor, fifth: Tensor | None = None) -> None:
    """Fills 32 elements from 16 bytes, and four bytes with one more bit of each if there are."""
    low, high = nibbles & 15, nibbles >> 4
    if fifth is not None:
        # Eight bytes at once, as one number.
        bits = _SIXTEENS.view(torch.int64).flatten()[fifth.int()].view(torch.uint8)
        low, high = low | bits[:, :16], high | bits[:, 16:]
    out[:, :16] = low
    out[:, 16:] = high


def _fill_pairs(pairs: Tensor, out: Tensor, third: Tensor | None = None) -> None:
    """Fills 256 elements from 64 bytes, and 32 bytes with one more bit of each if there are."""
    groups, quarters = out.unflatten(1, (2, 4, 32)), pairs.unflatten(1, (2, 32))
    for group in range(4):
        value = quarters >> 2 * group & 3
        if third is not None:
            bits = torch.stack([third >> half * 4 + group & 1 for half in range(2)], 1)
            value |= bits << 2
        groups[:, :, group] = value


def _scale_32(blocks: Tensor, out: Tensor, d: Tensor, dmin: Tensor) -> None:
    """Applies the scales of q4_k and q5_k: eight pairs of six bits in twelve bytes."""
    first, second, rest = blocks[:, 4:16].unflatten(1, (3, 4)).unbind(1)
    scales = torch.cat([first & 63, rest & 15 | first >> 2 & 48], 1) * d
    minima = torch.cat([second & 63, rest >> 4 | second >> 2 & 48], 1) * dmin
    out.unflatten(1, (8, 32)).mul_(scales[..., None]).sub_(minima[..., None])
