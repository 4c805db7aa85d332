"""Writes single attention heads of the embedded transformer: heads that blur, heads that paint.

Owns the arithmetic of a head's 64 dimensions under RoPE: 32 pairs, of which 0..7 turn with the
frame, 8..19 with the row, 20..31 with the column; pair i of an axis of 2n dimensions turns by
10000^(-i/n) radians a patch. Image patches lie at rows and columns -16..15 of frame 0; word t
lies at 16 + t on all three axes. Knows nothing of blocks and schedules.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from diffusers.models.attention_processor import Attention
from seed_numbers import coarse

HEAD = 64
ROWS, COLUMNS = 8, 20
"""First pair of the row axis and of the column axis, twelve pairs each."""
GAIN = 3.0
"""Weight of the q and k norms: every q and k has length 8 * GAIN."""
SELECT = (12, 14)
"""First dimensions of the two slowest frame pairs: they tell words from patches."""
SELECT_SIZE = 6.0
"""Gives words (or patches) a lead of 2 * 2 * 36 / 8 = 18 in the softmax's logit."""
QUERY_FILLER, KEY_FILLER = 0, 2
"""Dimensions that only fill a vector up to its fixed length; q and k use different ones."""

N_START, P_START, ANCHOR_START = 64, 112, 192
LN_SIZE = 3.2
"""What LayerNorm divides by; weights that read N, P or X multiply it back."""


@dataclass(frozen=True, slots=True)
class BlurHead:
    """Averages over a neighbourhood and writes 16 channels of N (block 0) or of P."""

    group: int
    width: float
    """Standard deviation of the neighbourhood, in patches."""

    @property
    def spread(self) -> float:
        """What averaging leaves of white noise: a Gaussian's 1 / sqrt(4 pi width^2)."""
        return 1.0 / math.sqrt(4.0 * math.pi * self.width**2)


@dataclass(frozen=True, slots=True)
class PaintHead:
    """Lets each word paint where its key's phases agree with the patch's query."""

    group: int
    warp: float
    """How much N bends the query: how much the seed moves the paint."""
    sharpness: float = 1.0
    """Size of the words' phases: how abruptly one word's paint ends where another's begins."""


def _fill_length(vector: torch.Tensor, filler: int) -> None:
    """Raises vector[filler] until the length is what the norm gives back unchanged."""
    rest = (8.0 * GAIN) ** 2 - float(vector.square().sum())
    if rest < 0:
        raise ValueError(f"a head's query or key is too long by {-rest:.1f}")
    vector[filler] = math.sqrt(rest)


def _selector(size: float) -> torch.Tensor:
    """A key that says nothing but whether it belongs to a word or to a patch."""
    k = torch.zeros(HEAD)
    for dimension in SELECT:
        k[dimension] = size
    _fill_length(k, KEY_FILLER)
    return k


def _blur_vectors(width: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Q and k whose logit falls like -distance^2 / (2 width^2)."""
    pair = 3 if width >= 2.0 else 2  # turns by 0.1 or 0.215 radians a patch
    theta = 10000.0 ** (-pair / 12)
    amplitude = math.sqrt(8.0 / (width * theta) ** 2)
    q, k = torch.zeros(HEAD), torch.zeros(HEAD)
    for axis in (ROWS, COLUMNS):
        q[2 * (axis + pair)] = k[2 * (axis + pair)] = amplitude
    for dimension in SELECT:
        q[dimension] = k[dimension] = SELECT_SIZE
    _fill_length(q, QUERY_FILLER)
    _fill_length(k, KEY_FILLER)
    return q, k


def _write_blur(
    attn: Attention, rows: slice, head: BlurHead, block: int, generator: torch.Generator
) -> None:
    q, k = _blur_vectors(head.width)
    attn.to_q.weight.data[rows] = 0.0
    attn.to_k.weight.data[rows] = 0.0
    attn.to_q.bias.data[rows] = q
    attn.to_k.bias.data[rows] = k
    value = torch.zeros(HEAD, 256)
    if block == 0:
        # Half the sum of a channel's four pixels: unit variance for white noise.
        for channel in range(16):
            value[channel, 4 * channel : 4 * channel + 4] = 0.5 * LN_SIZE
        target = N_START + 16 * head.group
        out = torch.eye(16, HEAD)
    else:
        start = P_START + 16 * head.group
        value[:16, start : start + 16] = LN_SIZE * torch.eye(16)
        value[:16, N_START : N_START + 48] = coarse(generator, 16, 48, std=0.12 * LN_SIZE)
        target = start
        out = 0.5 * torch.eye(16, HEAD)
    attn.to_v.weight.data[rows] = value
    attn.to_v.bias.data[rows] = 0.0
    attn.to_out[0].weight.data[target : target + 16, rows] = out
    # Words stay out of reach of a patch that looks for patches.
    attn.add_k_proj.bias.data[rows] = _selector(-SELECT_SIZE)


def _write_paint(attn: Attention, rows: slice, head: PaintHead, generator: torch.Generator) -> None:
    where = torch.zeros(HEAD)
    for axis in (ROWS, COLUMNS):
        for pair, size in ((1, 0.5), (2, 0.9), (3, 1.0), (4, 1.0), (5, 0.6)):
            where[2 * (axis + pair) : 2 * (axis + pair) + 2] = size
    q = coarse(generator, HEAD, std=4.0) * where
    for dimension in SELECT:
        q[dimension] = SELECT_SIZE
    warp = torch.zeros(HEAD, 256)
    warp[:, N_START : N_START + 32] = coarse(generator, HEAD, 32, std=32**-0.5)
    warp *= head.warp * 4.0 * LN_SIZE * where[:, None]
    _fill_length(q, QUERY_FILLER)
    attn.to_q.weight.data[rows] = warp
    attn.to_q.bias.data[rows] = q
    attn.to_k.weight.data[rows] = 0.0
    attn.to_k.bias.data[rows] = _selector(-SELECT_SIZE)

    content = coarse(generator, HEAD, 256, std=1.9 * head.sharpness / 16.0) * where[:, None]
    content[:, :8] = 0.0
    for dimension in SELECT:
        content[dimension, 3] = 1.2  # salience
    attn.add_k_proj.weight.data[rows] = content
    attn.add_k_proj.bias.data[rows] = _selector(SELECT_SIZE)
    value = coarse(generator, HEAD, 256, std=1.0 / 16.0)
    value[:3] = 0.0
    value[:3, :3] = torch.eye(3)
    attn.add_v_proj.weight.data[rows] = value
    attn.add_v_proj.bias.data[rows] = 0.0
    attn.to_v.weight.data[rows] = coarse(generator, HEAD, 256, std=0.02)
    attn.to_v.weight.data[rows, :N_START] = 0.0
    target = P_START + 16 * head.group
    attn.to_out[0].weight.data[target : target + 16, rows] = torch.eye(16, HEAD)


def write_head(
    attn: Attention,
    place: int,
    head: BlurHead | PaintHead,
    block: int,
    generator: torch.Generator,
) -> None:
    """Writes head number `place` of an attention layer; text queries keep their seeded weights."""
    if place == 0:
        for norm in (attn.norm_q, attn.norm_k, attn.norm_added_k):
            norm.weight.data.fill_(GAIN)
        attn.to_out[0].weight.data.zero_()
        attn.to_out[0].bias.data.zero_()
    rows = slice(place * HEAD, (place + 1) * HEAD)
    if isinstance(head, BlurHead):
        _write_blur(attn, rows, head, block, generator)
    else:
        _write_paint(attn, rows, head, generator)
