"""What adapters need on a GPU beside the products they are folded into (see `fold`).

Owns two kernels: one writes a set of adapters into the room behind the matrices, all of them in one
launch; the other reduces activations to very few columns, which cuBLAS leaves most of the card idle
for.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.fold import COLUMNS, Job, wider
from inference_server.model.offload.pinned_memory import sent

FEATURES = 512
"""Features that one program of the first kernel writes, COLUMNS columns of each."""

FIELDS = 13
"""Whole numbers that describe a piece to it."""


@triton.jit
def _whole(number, aligned: tl.constexpr):
    """A number of the table, of which no more can be known when the kernel is compiled."""
    number = number.to(tl.int32)
    return tl.multiple_of(number, 8) if aligned else number


@triton.jit
def _address(number, like, aligned: tl.constexpr):
    pointer = number.to(tl.pointer_type(like.dtype.element_ty))
    return tl.multiple_of(pointer, 16) if aligned else pointer


@triton.jit
def _fold_kernel(
    table,
    like,
    fields: tl.constexpr,
    columns: tl.constexpr,
    features: tl.constexpr,
    aligned: tl.constexpr,
):
    about = table + tl.program_id(0) * fields
    rank = tl.load(about + 5).to(tl.int32)
    width = _whole(tl.load(about + 6), aligned)
    inside = _whole(tl.load(about + 7), aligned)
    out = _whole(tl.load(about + 8), aligned)
    column = (tl.program_id(2) * columns + tl.arange(0, columns))[:, None]
    feature = tl.arange(0, features)[None, :]
    windows = tl.cdiv(inside, features)
    tile = tl.program_id(1)
    if tile < windows:
        # `down`, with zeros below.
        down = _address(tl.load(about), like, aligned)
        window = _address(tl.load(about + 2), like, aligned)
        parts = tl.load(about + 4).to(tl.int32)
        at = column * inside + tile * features + feature
        there = tile * features + feature < inside
        value = tl.load(down + at, mask=there & (column < parts * rank), other=0.0)
        tl.store(window + at, value, mask=there & (column < width))
    else:
        # The columns of one part, in some of its features.
        up = _address(tl.load(about + 1), like, aligned)
        tail = _address(tl.load(about + 3), like, aligned)
        parts = tl.load(about + 4).to(tl.int32)
        stride = tl.load(about + 9)
        apart = tl.load(about + 11)
        if aligned:
            stride, apart = tl.multiple_of(stride, 8), tl.multiple_of(apart, 8)
        gate = tl.load(about + 12).to(tl.float64, bitcast=True).to(tl.float32)
        each = tl.cdiv(out, features)
        part = (tile - windows) // each
        begin = (tile - windows - part * each) * features
        end = tl.where(part < parts, out, 0)
        # Row p * rank + j of `up` adds to part p alone.
        own = (begin + feature < end) & (column >= part * rank) & (column < (part + 1) * rank)
        value = tl.load(up + column * out + begin + feature, mask=own, other=0.0)
        value = (value.to(tl.float32) * gate).to(like.dtype.element_ty)
        # A row of the matrix takes a line of columns: written that way round, in whole sectors.
        line, row = tl.trans(column), begin + tl.trans(feature)
        target = tail + (part * out + row) * stride + line
        mask = (row < end) & (line < width)
        for _ in range(tl.load(about + 10).to(tl.int32)):
            tl.store(target, tl.trans(value), mask=mask)
            target += apart


def fold_(job: Job) -> None:
    """See `fold.fold_`."""
    there, like = job.columns > 0, job.places[0].window
    if not there.any():
        return
    adapter, site = np.nonzero(there)
    begin, columns = job.begins[there], job.columns[there]
    window, behind, inside, out, stride = job.memory[site].T
    down, up, rank = job.factors[there].T
    parts = job.parts[site]
    window = window + begin * inside * like.itemsize
    behind = behind + begin * like.itemsize
    totals = job.totals[site]
    gates = np.array([a.gate for a in job.adapters])[adapter].view(np.int64)
    splits = job.splits[site]
    table = np.stack(
        (
            down,
            up,
            window,
            behind,
            parts,
            rank,
            columns,
            inside,
            out,
            stride,
            splits,
            totals,
            gates,
        ),
        1,
    )
    tiles = -(-inside // FEATURES) + parts * -(-out // FEATURES)
    aligned = not any((numbers % 8).any() for numbers in (inside, out, stride, totals)) and not any(
        (addresses % 16).any() for addresses in (down, up, window, behind)
    )
    _fold_kernel[(len(table), int(tiles.max()), triton.cdiv(int(columns.max()), COLUMNS))](
        sent(torch.from_numpy(table), like.device),
        like,
        fields=FIELDS,
        columns=COLUMNS,
        features=FEATURES,
        aligned=aligned,
        num_warps=4,
    )


@triton.jit(do_not_specialize=["rows", "columns"])
def _reduce_kernel(
    x,
    window,
    rows,
    columns,
    inside,
    stride,
    each,
    together: tl.constexpr,
    wide: tl.constexpr,
    deep: tl.constexpr,
    even: tl.constexpr,
):
    row = tl.program_id(0) * together + tl.arange(0, together)[:, None]
    column = tl.arange(0, wide)[:, None]
    step = tl.arange(0, deep)[None, :]
    inputs = x + row.to(tl.int64) * stride + step
    factors = window + column.to(tl.int64) * inside + step
    total = tl.zeros((together, wide), tl.float32)
    split = tl.program_id(1)
    for begin in range(split * each, tl.minimum(inside, (split + 1) * each), deep):
        if even:
            a = tl.load(inputs + begin, mask=row < rows, other=0.0)
            b = tl.load(factors + begin, mask=column < columns, other=0.0)
        else:
            left = begin + step < inside
            a = tl.load(inputs + begin, mask=(row < rows) & left, other=0.0)
            b = tl.load(factors + begin, mask=(column < columns) & left, other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    column = tl.arange(0, wide)[None, :]
    behind = x + row.to(tl.int64) * stride + inside + split * columns + column
    tl.store(behind, total.to(x.dtype.element_ty), mask=(row < rows) & (column < columns))


ROWS, DEEP, STAGES, WARPS = 64, 128, 3, 4
"""How the kernel above is cut up; found on an H200, see docs/decisions.md."""

WIDEST = 32
"""Columns up to which it is faster than cuBLAS: 5 against 8 microseconds for 16, 12 for 64 against
7."""


def reduce_(x: Tensor, window: Tensor, splits: int) -> None:
    """See `fold.reduce_`; splits fill the card, and the product that follows sums them up."""
    (rows, inside), columns = x.shape, len(window)
    if columns > WIDEST:
        assert splits == 1
        torch.mm(x, window.T, out=wider(x, columns)[:, inside:])
        return
    wide = triton.next_power_of_2(columns)
    each = triton.cdiv(triton.cdiv(inside, splits), DEEP) * DEEP
    _reduce_kernel[(triton.cdiv(rows, ROWS), splits)](
        x,
        window,
        rows,
        columns,
        inside,
        x.stride(0),
        each,
        together=ROWS,
        wide=wide,
        deep=DEEP,
        even=inside % DEEP == 0,
        num_warps=WARPS,
        num_stages=STAGES,
    )
