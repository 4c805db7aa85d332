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
from inference_server.model.host_memory import sent

FEATURES = 512
"""Features that one program of the first kernel writes, COLUMNS columns of each."""

FIELDS = 13
"""Whole numbers that describe a piece to it."""


@triton.jit
def _fold_kernel(table, like, fields: tl.constexpr, columns: tl.constexpr, features: tl.constexpr):
    piece = tl.program_id(0)
    about = table + piece * fields
    kind = tl.pointer_type(like.dtype.element_ty)
    down = tl.load(about).to(kind)
    up = tl.load(about + 1).to(kind)
    window = tl.load(about + 2).to(kind)
    tail = tl.load(about + 3).to(kind)
    parts = tl.load(about + 4).to(tl.int32)
    rank = tl.load(about + 5).to(tl.int32)
    width = tl.load(about + 6).to(tl.int32)
    inside = tl.load(about + 7).to(tl.int32)
    out = tl.load(about + 8).to(tl.int32)
    stride = tl.load(about + 9)
    splits = tl.load(about + 10).to(tl.int32)
    apart = tl.load(about + 11)
    gate = tl.load(about + 12).to(tl.float64, bitcast=True).to(tl.float32)
    column = (tl.program_id(2) * columns + tl.arange(0, columns))[:, None]
    feature = (tl.program_id(1) * features + tl.arange(0, features))[None, :]
    there, real = column < width, column < parts * rank
    at = column * inside + feature
    value = tl.load(down + at, mask=real & (feature < inside), other=0.0)
    tl.store(window + at, value, mask=there & (feature < inside))
    # Row p * rank + j of `up` adds to part p alone.
    part = feature // out
    own = real & (column // rank == part) & (feature < parts * out)
    value = tl.load(up + column * out + feature - part * out, mask=own, other=0.0)
    value = (value.to(tl.float32) * gate).to(like.dtype.element_ty)
    # A row of the matrix takes a line of columns: written that way round, in whole sectors.
    value, column, feature = tl.trans(value), tl.trans(column), tl.trans(feature)
    for split in range(splits):
        target = tail + split * apart + feature * stride + column
        tl.store(target, value, mask=(column < width) & (feature < parts * out))


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
    table = np.stack(
        (
            down,
            up,
            window + begin * inside * like.itemsize,
            behind + begin * like.itemsize,
            parts,
            rank,
            columns,
            inside,
            out,
            stride,
            job.splits[site],
            job.totals[site],
            np.array([a.gate for a in job.adapters])[adapter].view(np.int64),
        ),
        1,
    )
    most, widest = int(max(inside.max(), (parts * out).max())), int(columns.max())
    _fold_kernel[(len(table), triton.cdiv(most, FEATURES), triton.cdiv(widest, COLUMNS))](
        sent(torch.from_numpy(table), like.device),
        like,
        fields=FIELDS,
        columns=COLUMNS,
        features=FEATURES,
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
