"""What adapters need on a GPU beside the products they are folded into (see `fold`).

Owns two kernels: one writes a set of adapters into the room behind the matrices, all of them in one
launch; the other reduces activations to a few columns, which cuBLAS leaves most of the card idle
for.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.fold import COLUMNS, Piece
from inference_server.model.host_memory import sent

FEATURES = 512
"""Features that one program of the first kernel writes, COLUMNS columns of each."""

FIELDS = 10
"""Whole numbers that describe a piece to it."""


@triton.jit
def _fold_kernel(
    table, gates, like, fields: tl.constexpr, columns: tl.constexpr, features: tl.constexpr
):
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
    value = (value.to(tl.float32) * tl.load(gates + piece)).to(like.dtype.element_ty)
    tl.store(tail + feature * stride + column, value, mask=there & (feature < parts * out))


def fold_(pieces: Sequence[Piece]) -> None:
    """See `fold.fold_`."""
    if not pieces:
        return
    rows, gates, most, widest = [], [], 0, 0
    for down, up, gate, window, tail in pieces:
        (parts, rank, out), (width, inside) = up.shape, window.shape
        places = (down.data_ptr(), up.data_ptr(), window.data_ptr(), tail.data_ptr())
        rows.append((*places, parts, rank, width, inside, out, tail.stride(0)))
        gates.append(gate)
        most, widest = max(most, inside, parts * out), max(widest, width)
    like = pieces[0].down
    _fold_kernel[(len(pieces), triton.cdiv(most, FEATURES), triton.cdiv(widest, COLUMNS))](
        sent(torch.tensor(rows), like.device),
        sent(torch.tensor(gates), like.device),
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
    together: tl.constexpr,
    wide: tl.constexpr,
    deep: tl.constexpr,
    even: tl.constexpr,
):
    row = tl.program_id(0) * together + tl.arange(0, together)[:, None]
    column = tl.program_id(1) * wide + tl.arange(0, wide)[:, None]
    step = tl.arange(0, deep)[None, :]
    inputs = x + row.to(tl.int64) * stride + step
    factors = window + column.to(tl.int64) * inside + step
    total = tl.zeros((together, wide), tl.float32)
    for begin in range(0, inside, deep):
        if even:
            a = tl.load(inputs + begin, mask=row < rows, other=0.0)
            b = tl.load(factors + begin, mask=column < columns, other=0.0)
        else:
            left = begin + step < inside
            a = tl.load(inputs + begin, mask=(row < rows) & left, other=0.0)
            b = tl.load(factors + begin, mask=(column < columns) & left, other=0.0)
        total = tl.dot(a, tl.trans(b), total, input_precision="ieee")
    column = tl.program_id(1) * wide + tl.arange(0, wide)[None, :]
    behind = x + row.to(tl.int64) * stride + inside + column
    tl.store(behind, total.to(x.dtype.element_ty), mask=(row < rows) & (column < columns))


ROWS, DEEP, WIDEST, STAGES, WARPS = 32, 128, 64, 4, 4
"""How the kernel above is cut up: see docs/decisions.md."""


def reduce_(x: Tensor, window: Tensor) -> None:
    """See `ops.reduce_`."""
    (rows, inside), columns = x.shape, len(window)
    wide = min(WIDEST, triton.next_power_of_2(columns))
    _reduce_kernel[(triton.cdiv(rows, ROWS), triton.cdiv(columns, wide))](
        x,
        window,
        rows,
        columns,
        inside,
        x.stride(0),
        together=ROWS,
        wide=wide,
        deep=DEEP,
        even=inside % DEEP == 0,
        num_warps=WARPS,
        num_stages=STAGES,
    )
