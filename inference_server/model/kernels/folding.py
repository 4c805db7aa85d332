"""Folding adapters into a matrix product: launch records, constants, and the reference in PyTorch.

With `down`, the stacked A matrices of the adapters in use, and t = x down^T,

    y = x W^T + b + t up        equals        y = [x | t] [W | up^T]^T + b

so one product with a few more columns replaces several that read and write y again. W and x are
allocated with spare columns behind each row, which `up^T` and t are written to. `window` holds
`down`. `triton_folding` implements the same functions for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference_server.model.kernels.low_rank import GatedAdapter

COLUMNS = 16
"""Each adapter's columns at a site are rounded up to a multiple of this: the depth of a tensor core
instruction, and 32 bytes of bf16."""

SPARE_COLUMNS = 64
"""Spare columns of activations come in multiples of this: 128 bytes of bf16, and the tile
depth of products."""

Integers = NDArray[np.int64]


class FoldTarget(NamedTuple):
    """A product that adapters can be folded into."""

    site: str
    """The product's name in the slot layout."""
    weight: Tensor
    """[parts * out, in], with spare columns behind each row."""
    window: Tensor
    """[most columns, in], contiguous; receives the adapters' stacked A matrices."""
    parts: int
    """Modules stacked in the product: 3 for q, k, v."""


class FoldLaunch(NamedTuple):
    """A set of adapters to write; S targets, A adapters.

    An adapter occupies columns `begins` to `begins + columns` of a target: in the window its
    `down`, padded with zero rows; behind the matrix gate * up^T, part by part on the diagonal and
    zero elsewhere. With split-K partial sums, `up` is repeated once per part.
    """

    targets: Sequence[FoldTarget]
    memory: Integers
    """[S, 5]: address of the window, address of the spare columns, in, out of one part, and
    elements between two rows of the matrix."""
    parts: Integers
    """[S]"""
    adapters: Sequence[GatedAdapter]
    factors: Integers
    """[A, S, 3]: addresses of `down` and `up`, and r; all 0 where the adapter lacks the site."""
    begins: Integers
    """[A, S]"""
    columns: Integers
    """[A, S]; 0 where the adapter lacks the site."""
    totals: Integers
    """[S], columns of all adapters together."""
    splits: Integers
    """[S], split-K partial sums of t."""


class Folding(NamedTuple):
    """An implementation of the two functions."""

    fold_: Callable[[FoldLaunch], None]
    reduce_: Callable[[Tensor, Tensor, int], None]
    splits: bool
    """Leave t in as many split-K partial sums as fill SPARE_COLUMNS columns. The longer product
    adds them up, and more programs fill the card while t is computed."""


def fold_(launch: FoldLaunch) -> None:
    """Writes every target's window and spare columns."""
    for s, (site, weight, window, parts) in enumerate(launch.targets):
        total, splits = int(launch.totals[s]), int(launch.splits[s])
        if not total:
            continue
        tails = extended(weight, splits * total)[:, -splits * total :]
        window[:total].zero_()
        tails.zero_()
        for adapter, begin in zip(launch.adapters, launch.begins[:, s], strict=True):
            if (factors := adapter.tensors.factors.get(site)) is None:
                continue
            window[begin : begin + len(factors.down)].copy_(factors.down)
            rank, out = factors.up.shape[1:]
            for split, part in product(range(splits), range(parts)):
                first = split * total + begin + part * rank
                rows = tails[part * out : (part + 1) * out, first : first + rank]
                torch.mul(factors.up[part].T, adapter.gate, out=rows)


def reduce_(x: Tensor, window: Tensor, splits: int) -> None:
    """Writes t = x window^T into the spare columns of x, as `splits` partial sums side by side.

    Args:
        x: [rows, in], with at least splits * columns spare columns.
        window: [columns, in].
        splits: number of partial sums, each over a contiguous range of `in`.
    """
    columns, inside = window.shape
    each = -(-inside // splits)
    behind = extended(x, splits * columns)[:, inside:].unflatten(1, (splits, columns)).unbind(1)
    for a, b, target in zip(x.split(each, 1), window.split(each, 1), behind, strict=True):
        target.copy_(a @ b.T)


def extended(matrix: Tensor, columns: int, rows: int = 0) -> Tensor:
    """Returns a view of [rows, columns] that includes that many spare columns and rows."""
    height, width = matrix.shape
    return matrix.as_strided((height + rows, width + columns), matrix.stride())
