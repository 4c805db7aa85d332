"""Adapters folded into the transformer's products (see `kernels.folding`).

Only resident bf16 blocks have spare columns. Streamed blocks hide the cost of adapters behind their
copies, and float8 weights cannot hold `up` exactly: both add adapters as `low_rank` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from inference_server.model.kernels.folding import (
    COLUMNS,
    SPARE_COLUMNS,
    Folding,
    FoldLaunch,
    FoldTarget,
    Integers,
    extended,
)
from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter
from inference_server.model.transformer_weights import BlockWeights, TransformerConfig

PARTS = {"qkv": 3, "out": 1, "mlp_up": 1, "mlp_down": 1}
"""Products of a stream -> number of modules stacked in each."""


def window_bytes(config: TransformerConfig, rank: int, dtype: torch.dtype) -> int:
    """Returns the size of one block's windows.

    Two streams; the inputs of q, k, v, out and mlp_up are D wide, that of mlp_down is M wide. The
    spare columns behind the matrices are counted with the matrices.
    """
    return 2 * rank * (5 * config.width + config.mlp_width) * dtype.itemsize


class FoldedAdapters:
    """The set of adapters that is folded in; another set replaces it in one launch.

    Args:
        blocks: all blocks, on the device, with spare columns for `rank`.
        rank: largest sum of the adapters' ranks.
        folding: implementation for the blocks' device.
    """

    def __init__(self, blocks: Sequence[BlockWeights], rank: int, folding: Folding) -> None:
        self._folding = folding
        found = [
            (f"block{index}.{stream}_{name}", getattr(getattr(block, stream), name).weight, parts)
            for index, block in enumerate(blocks)
            for stream in ("img", "txt")
            for name, parts in PARTS.items()
        ]
        sizes = [parts * rank * weight.shape[1] for _, weight, parts in found]
        memory = blocks[0].img.out.weight.new_empty(sum(sizes))
        self._targets = [
            FoldTarget(site, weight, window.view(parts * rank, -1), parts)
            for (site, weight, parts), window in zip(found, memory.split(sizes), strict=True)
        ]
        self._index = {target.site: index for index, target in enumerate(self._targets)}
        self._parts = np.array([target.parts for target in self._targets])
        self._most = self._parts * rank
        self._memory = np.array([_memory(target) for target in self._targets])
        self._factors: WeakKeyDictionary[AdapterTensors, Integers] = WeakKeyDictionary()
        self._held: tuple[GatedAdapter, ...] = ()
        self._windows: dict[str, Tensor] = {}
        """By site, cut to the columns in use; filled on demand."""
        self._totals: list[int] = [0] * len(found)
        self._splits: list[int] = [0] * len(found)
        self.spare_columns = 0
        """Spare columns that every activation needs behind its rows."""

    def fold(self, adapters: Sequence[GatedAdapter]) -> bool:
        """Folds a set of adapters in; returns False if their ranks do not fit.

        Work launched earlier on the same stream may still use the previous set. A call takes about
        a millisecond, so the sites are handled as arrays, not in a Python loop.
        """
        if self.holds(adapters):
            return True
        factors = np.stack([self._factors_of(adapter.tensors) for adapter in adapters])
        columns = -(-factors[:, :, 2] * self._parts // COLUMNS) * COLUMNS
        ends = columns.cumsum(0)
        totals = ends[-1]
        if (totals > self._most).any():
            return False
        splits = np.maximum(1, np.minimum(SPARE_COLUMNS, self._most) // np.maximum(totals, 1))
        splits = np.where(totals > 0, splits if self._folding.splits else 1, 0)
        self._folding.fold_(
            FoldLaunch(
                targets=self._targets,
                memory=self._memory,
                parts=self._parts,
                adapters=adapters,
                factors=factors,
                begins=ends - columns,
                columns=columns,
                totals=totals,
                splits=splits,
            )
        )
        self._held = tuple(adapters)
        self._windows.clear()
        self._totals, self._splits = totals.tolist(), splits.tolist()
        self.spare_columns = -(-int((totals * splits).max()) // SPARE_COLUMNS) * SPARE_COLUMNS
        return True

    def _factors_of(self, tensors: AdapterTensors) -> Integers:
        """Returns an adapter's rows of `FoldLaunch.factors`, [S, 3]."""
        found = self._factors.get(tensors)
        if found is None:
            rows = (tensors.factors.get(target.site) for target in self._targets)
            found = self._factors[tensors] = np.array(
                [
                    (f.down.data_ptr(), f.up.data_ptr(), f.up.shape[1]) if f else (0, 0, 0)
                    for f in rows
                ]
            )
        return found

    def holds(self, adapters: Sequence[GatedAdapter]) -> bool:
        """Returns True if exactly these versions, with these weights, are folded in."""
        return len(adapters) == len(self._held) and all(
            ours.tensors is theirs.tensors and ours.gate == theirs.gate
            for ours, theirs in zip(self._held, adapters, strict=True)
        )

    def columns(self, site: str) -> int:
        """Returns how many columns a product is longer by; 0 if no adapter has the site."""
        index = self._index[site]
        return self._totals[index] * self._splits[index]

    def reduce(self, x: Tensor, site: str) -> Tensor:
        """Writes t behind x [rows, in]; returns [x | t], [rows, in + columns]."""
        index = self._index[site]
        if not (total := self._totals[index]):
            return x
        window = self._windows.get(site)
        if window is None:
            window = self._windows[site] = self._targets[index].window[:total]
        self._folding.reduce_(x, window, self._splits[index])
        return extended(x, total * self._splits[index])


def _memory(target: FoldTarget) -> tuple[int, ...]:
    """Returns a target's row of `FoldLaunch.memory`."""
    weight = target.weight
    out, inside = weight.shape
    behind = weight.data_ptr() + inside * weight.itemsize
    return target.window.data_ptr(), behind, inside, out // target.parts, weight.stride(0)
