"""`folding` as Triton kernels.

`_fold_kernel` writes a whole set of adapters in one launch. `_reduce_kernel` multiplies activations
by very few columns, a shape for which cuBLAS leaves most of the card idle.
"""

from __future__ import annotations

import numpy as np
import torch
import triton
import triton.language as tl
from torch import Tensor

from inference_server.model.host_to_device import copy_to_device
from inference_server.model.kernels.folding import COLUMNS, FoldLaunch, extended

FEATURES = 512
"""Features per program of `_fold_kernel`; COLUMNS columns of each."""

FIELDS = 13
"""Int64 values per row of the table that `_fold_kernel` reads; `fold_` lists them in order."""


@triton.jit
def _integer(number, aligned: tl.constexpr):
    """A value of the table as int32; `aligned` declares it a multiple of 8 to the compiler."""
    number = number.to(tl.int32)
    return tl.multiple_of(number, 8) if aligned else number


@triton.jit
def _address(number, like, aligned: tl.constexpr):
    """A value of the table as a pointer; `aligned` declares it a multiple of 16 bytes."""
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
    """Copies one adapter's factors at one site into the window and behind the matrix.

    Grid: (rows of the table, tiles of `features` features, blocks of `columns` columns). The first
    ceil(in / features) tiles of a row copy `down` [parts * r, in] into the window [columns, in] and
    zero the padding rows. The other tiles write gate * up^T, of `up` [parts, r, out], into the
    spare columns of the matrix [parts * out, in], `splits` times. All tensors have the dtype of
    `like`; the product with the gate is computed in float32.
    """
    about = table + tl.program_id(0) * fields
    rank = tl.load(about + 5).to(tl.int32)
    width = _integer(tl.load(about + 6), aligned)
    inside = _integer(tl.load(about + 7), aligned)
    out = _integer(tl.load(about + 8), aligned)
    column = (tl.program_id(2) * columns + tl.arange(0, columns))[:, None]
    feature = tl.arange(0, features)[None, :]
    windows = tl.cdiv(inside, features)
    tile = tl.program_id(1)
    if tile < windows:
        # `down`, padded with zero rows.
        down = _address(tl.load(about), like, aligned)
        window = _address(tl.load(about + 2), like, aligned)
        parts = tl.load(about + 4).to(tl.int32)
        at = column * inside + tile * features + feature
        there = tile * features + feature < inside
        value = tl.load(down + at, mask=there & (column < parts * rank), other=0.0)
        tl.store(window + at, value, mask=there & (column < width))
    else:
        # One tile of one part of `up`.
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
        # Transposed, so that neighbouring threads write neighbouring columns: whole sectors.
        line, row = tl.trans(column), begin + tl.trans(feature)
        target = tail + (part * out + row) * stride + line
        mask = (row < end) & (line < width)
        for _ in range(tl.load(about + 10).to(tl.int32)):
            tl.store(target, tl.trans(value), mask=mask)
            target += apart


def fold_(launch: FoldLaunch) -> None:
    """See `folding.fold_`."""
    there, like = launch.columns > 0, launch.targets[0].window
    if not there.any():
        return
    adapter, site = np.nonzero(there)
    begin, columns = launch.begins[there], launch.columns[there]
    window, behind, inside, out, stride = launch.memory[site].T
    down, up, rank = launch.factors[there].T
    parts = launch.parts[site]
    window = window + begin * inside * like.itemsize
    behind = behind + begin * like.itemsize
    totals = launch.totals[site]
    gates = np.array([a.gate for a in launch.adapters])[adapter].view(np.int64)
    splits = launch.splits[site]
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
        copy_to_device(torch.from_numpy(table), like.device),
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
    """Computes t = x window^T for `together` rows of x over one of the split-K ranges of `in`.

    Grid: (row blocks, splits). x is [rows, in] with `stride` elements between rows, window is
    [columns, in]; both are bf16, float16 or float32, sums are float32. Writes [together, columns]
    in x's dtype into the spare columns of x, behind those of the earlier splits. `each` is the
    length of a range, `even` states that `deep` divides `in`.
    """
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
"""Rows and depth of a tile of `_reduce_kernel`, pipeline stages and warps; tuned on an H200, see
docs/decisions.md."""

WIDEST = 32
"""Columns up to which `_reduce_kernel` is faster than cuBLAS: 5 against 8 microseconds for 16
columns, 12 against 7 for 64 (H200)."""


def reduce_(x: Tensor, window: Tensor, splits: int) -> None:
    """See `folding.reduce_`; the partial sums fill the card."""
    (rows, inside), columns = x.shape, len(window)
    if columns > WIDEST:
        assert splits == 1
        torch.mm(x, window.T, out=extended(x, columns)[:, inside:])
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
