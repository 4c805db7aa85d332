"""Adapters folded into the products they add to, so that they cost next to nothing.

Owns the room behind the matrices and what is written there. With `down` the stacked A
matrices of the adapters in use, reduced once to t = x down^T, the sum

    y = x W^T + b + t up        is        y = [x | t] [W | up^T]^T + b

one product that is a few columns longer, instead of several that read and write y again. W keeps
free columns for `up`, every x has free columns for t, and without adapters both are left out: the
shapes are the same as if there were none. Streamed blocks arrive without room and hide the sum
behind their copies, and eight-bit weights have no exact place for it: both add adapters as
`low_rank` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import NamedTuple
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter
from inference_server.model.transformer_weights import BlockWeights, Matrix, TransformerConfig

COLUMNS = 16
"""A site's columns are a multiple of it: what tensor cores multiply, and 32 bytes of bf16."""

ROOM = 64
"""Rows of activations are longer by a multiple of it: 128 bytes of bf16, and the depth to which
products are cut."""

PARTS = {"qkv": 3, "out": 1, "mlp_up": 1, "mlp_down": 1}
"""Products of a stream, and how many modules each is made of."""

Whole = NDArray[np.int64]


class Place(NamedTuple):
    """A product that adapters can be folded into."""

    site: str
    matrix: Matrix
    window: Tensor
    """[most columns, in], contiguous: the stacked A matrices of all adapters."""
    parts: int


class Job(NamedTuple):
    """A set of adapters to be folded in: S places, A adapters.

    Columns `begins` to `begins + columns` of a place are an adapter's: in the window its `down`,
    then zeros; behind the matrix gate * up^T, part by part on the diagonal, zeros elsewhere. Where
    t is left in several summands, what stands behind the matrix is there as often.
    """

    places: Sequence[Place]
    memory: Whole
    """[S, 5]: addresses of the window and of what stands behind the matrix; in, out, and elements
    from one row of the matrix to the next."""
    parts: Whole
    """[S]"""
    adapters: Sequence[GatedAdapter]
    factors: Whole
    """[A, S, 3]: addresses of `down` and `up`; r, 0 where an adapter does not act."""
    begins: Whole
    """[A, S]"""
    columns: Whole
    """[A, S]; 0 where an adapter does not act."""
    totals: Whole
    """[S]"""
    splits: Whole
    """[S]"""


class Arithmetic(NamedTuple):
    """One way to do it; the functions below say what each does."""

    fold_: Callable[[Job], None]
    reduce_: Callable[[Tensor, Tensor, int], None]
    splits: bool
    """Whether it pays to leave t in several summands, as many as fill up ROOM columns; no more
    than half of ROOM are split."""


def fold_(job: Job) -> None:
    """Writes every window and what stands behind every matrix."""
    for s, (site, matrix, window, parts) in enumerate(job.places):
        total, splits = int(job.totals[s]), int(job.splits[s])
        if not total:
            continue
        tails = wider(matrix.weight, splits * total)[:, -splits * total :]
        window[:total].zero_()
        tails.zero_()
        for adapter, begin in zip(job.adapters, job.begins[:, s], strict=True):
            if (factors := adapter.tensors.factors.get(site)) is None:
                continue
            window[begin : begin + len(factors.down)].copy_(factors.down)
            rank, out = factors.up.shape[1:]
            for split, part in product(range(splits), range(parts)):
                first = split * total + begin + part * rank
                rows = tails[part * out : (part + 1) * out, first : first + rank]
                torch.mul(factors.up[part].T, adapter.gate, out=rows)


def reduce_(x: Tensor, window: Tensor, splits: int) -> None:
    """Writes t = x window^T behind the rows of x, as the sum of `splits` of the same shape.

    Args:
        x: [rows, in], with room for `splits` times as many columns as the window has rows.
        window: [columns, in].
        splits: each is the sum over a stretch of `in`.
    """
    columns, inside = window.shape
    each = -(-inside // splits)
    behind = wider(x, splits * columns)[:, inside:].unflatten(1, (splits, columns)).unbind(1)
    for a, b, target in zip(x.split(each, 1), window.split(each, 1), behind, strict=True):
        target.copy_(a @ b.T)


def arithmetic_on(device: torch.device) -> Arithmetic:
    """Kernels of our own on a GPU, plain PyTorch elsewhere."""
    if device.type != "cuda":
        return Arithmetic(fold_, reduce_, splits=False)
    # Triton is there on GPU machines alone.
    from inference_server.model.kernels import triton_low_rank

    return Arithmetic(triton_low_rank.fold_, triton_low_rank.reduce_, splits=True)


def wider(matrix: Tensor, columns: int, rows: int = 0) -> Tensor:
    """The matrix [rows, columns] with some of the room behind it."""
    height, width = matrix.shape
    return matrix.as_strided((height + rows, width + columns), matrix.stride())


def fold_bytes(config: TransformerConfig, rank: int, dtype: torch.dtype) -> int:
    """Of a block's windows; the room behind its matrices is counted with them."""
    return 2 * rank * (5 * config.width + config.mlp_width) * dtype.itemsize


class Fold:
    """The adapters that are folded in now; any other set takes their place in one go.

    Args:
        blocks: all of them, on the device, with room for `rank`.
        rank: of all adapters together that find room.
        arithmetic: on the blocks' device.
    """

    def __init__(self, blocks: Sequence[BlockWeights], rank: int, arithmetic: Arithmetic) -> None:
        self._arithmetic = arithmetic
        found = [
            (f"block{index}.{stream}_{name}", getattr(getattr(block, stream), name), parts)
            for index, block in enumerate(blocks)
            for stream in ("img", "txt")
            for name, parts in PARTS.items()
        ]
        sizes = [parts * rank * matrix.weight.shape[1] for _, matrix, parts in found]
        memory = blocks[0].img.out.weight.new_empty(sum(sizes))
        self._places = [
            Place(site, matrix, window.view(parts * rank, -1), parts)
            for (site, matrix, parts), window in zip(found, memory.split(sizes), strict=True)
        ]
        self._index = {place.site: index for index, place in enumerate(self._places)}
        self._parts = np.array([place.parts for place in self._places])
        self._most = self._parts * rank
        self._memory = np.array([_memory(place) for place in self._places])
        self._factors: WeakKeyDictionary[AdapterTensors, Whole] = WeakKeyDictionary()
        self._held: tuple[GatedAdapter, ...] = ()
        self._windows: dict[str, Tensor] = {}
        """Of the sites that were asked for since."""
        self._totals: list[int] = [0] * len(found)
        self._splits: list[int] = [0] * len(found)
        self.room = 0
        """Free columns that every activation needs behind its rows."""

    def hold(self, adapters: Sequence[GatedAdapter]) -> bool:
        """Sees to it that these are folded in; False if there is no room for all of them.

        What was folded in before may be in use by work begun earlier on the same stream. Takes a
        millisecond, so nothing in here looks at each of the many sites.
        """
        if self.holds(adapters):
            return True
        factors = np.stack([self._factors_of(adapter.tensors) for adapter in adapters])
        columns = -(-factors[:, :, 2] * self._parts // COLUMNS) * COLUMNS
        ends = columns.cumsum(0)
        totals = ends[-1]
        if (totals > self._most).any():
            return False
        splits = np.maximum(1, np.minimum(ROOM, self._most) // np.maximum(totals, 1))
        splits = np.where(totals > 0, splits if self._arithmetic.splits else 1, 0)
        begins = ends - columns
        job = Job(
            self._places,
            self._memory,
            self._parts,
            adapters,
            factors,
            begins,
            columns,
            totals,
            splits,
        )
        self._arithmetic.fold_(job)
        self._held = tuple(adapters)
        self._windows.clear()
        self._totals, self._splits = totals.tolist(), splits.tolist()
        self.room = -(-int((totals * splits).max()) // ROOM) * ROOM
        return True

    def _factors_of(self, tensors: AdapterTensors) -> Whole:
        """[S, 3], see `Job.factors`."""
        found = self._factors.get(tensors)
        if found is None:
            rows = (tensors.factors.get(place.site) for place in self._places)
            found = self._factors[tensors] = np.array(
                [
                    (f.down.data_ptr(), f.up.data_ptr(), f.up.shape[1]) if f else (0, 0, 0)
                    for f in rows
                ]
            )
        return found

    def holds(self, adapters: Sequence[GatedAdapter]) -> bool:
        """Whether exactly these are folded in: the same versions with the same weights."""
        return len(adapters) == len(self._held) and all(
            ours.tensors is theirs.tensors and ours.gate == theirs.gate
            for ours, theirs in zip(self._held, adapters, strict=True)
        )

    def columns(self, site: str) -> int:
        """How many a product is longer by; 0 where nothing is folded in."""
        index = self._index[site]
        return self._totals[index] * self._splits[index]

    def reduce(self, x: Tensor, site: str) -> Tensor:
        """[rows, in + columns] of x [rows, in]: what the longer product reads."""
        index = self._index[site]
        if not (total := self._totals[index]):
            return x
        window = self._windows.get(site)
        if window is None:
            window = self._windows[site] = self._places[index].window[:total]
        self._arithmetic.reduce_(x, window, self._splits[index])
        return wider(x, total * self._splits[index])


def _memory(place: Place) -> tuple[int, ...]:
    """A row of `Job.memory`."""
    weight = place.matrix.weight
    out, inside = weight.shape
    behind = weight.data_ptr() + inside * weight.itemsize
    return place.window.data_ptr(), behind, inside, out // place.parts, weight.stride(0)
