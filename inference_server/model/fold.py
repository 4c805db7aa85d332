"""Adapters folded into the products they add to, so that they cost next to nothing.

Owns the room behind the image's matrices and what is written there. With `down` the stacked A
matrices of the adapters in use, reduced once to t = x down^T, the sum

    y = x W^T + b + t up        is        y = [x | t] [W | up^T]^T + b

one product that is a few columns longer, instead of several that read and write y again. W keeps
free columns for `up`, every x has free columns for t, and without adapters both are left out: the
shapes are the same as if there were none. Text products are too small to gain from it; streamed
blocks arrive without room and hide the sum behind their copies; eight-bit weights have no exact
place for it: all three add adapters as `low_rank` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from inference_server.model.low_rank import GatedAdapter
from inference_server.model.transformer_weights import BlockWeights, Matrix, TransformerConfig

COLUMNS = 16
"""A site's columns are a multiple of it: what tensor cores multiply, and 32 bytes of bf16."""

ROOM = 64
"""Rows of activations are longer by a multiple of it: 128 bytes of bf16."""

PARTS = {"qkv": 3, "out": 1, "mlp_up": 1, "mlp_down": 1}
"""Products of the image's stream, and how many modules each is made of."""


class Piece(NamedTuple):
    """One adapter at one product, and where it goes."""

    down: Tensor
    """[parts * r, in]"""
    up: Tensor
    """[parts, r, out]"""
    gate: float
    window: Tensor
    """[columns, in], contiguous: `down`, then zeros."""
    tail: Tensor
    """[parts * out, columns]: gate * up^T, part by part on the diagonal, zeros elsewhere."""


class Arithmetic(NamedTuple):
    """One way to do it; the functions below say what each does."""

    fold_: Callable[[Sequence[Piece]], None]
    reduce_: Callable[[Tensor, Tensor], None]


def fold_(pieces: Sequence[Piece]) -> None:
    """Writes every window and tail."""
    for down, up, gate, window, tail in pieces:
        parts, rank, out = up.shape
        window[: parts * rank].copy_(down)
        window[parts * rank :].zero_()
        tail.zero_()
        for part in range(parts):
            rows = tail[part * out : (part + 1) * out, part * rank : (part + 1) * rank]
            torch.mul(up[part].T, gate, out=rows)


def reduce_(x: Tensor, window: Tensor) -> None:
    """Writes x window^T behind the rows of x.

    Args:
        x: [rows, in], with room for at least as many columns as the window has rows.
        window: [columns, in].
    """
    columns = len(window)
    torch.mm(x, window.T, out=wider(x, columns)[:, -columns:])


def arithmetic_on(device: torch.device) -> Arithmetic:
    """Kernels of our own on a GPU, plain PyTorch elsewhere."""
    if device.type != "cuda":
        return Arithmetic(fold_, reduce_)
    # Triton is there on GPU machines alone.
    from inference_server.model import triton_low_rank

    return Arithmetic(triton_low_rank.fold_, triton_low_rank.reduce_)


def wider(matrix: Tensor, columns: int, rows: int = 0) -> Tensor:
    """The matrix [rows, columns] with some of the room behind it."""
    height, width = matrix.shape
    return matrix.as_strided((height + rows, width + columns), matrix.stride())


def fold_bytes(config: TransformerConfig, rank: int, dtype: torch.dtype) -> int:
    """Of a block's windows; the room behind its matrices is counted with them."""
    return rank * (5 * config.width + config.mlp_width) * dtype.itemsize


class Fold:
    """The adapters that are folded in now; any other set takes their place in one go.

    Args:
        blocks: all of them, on the device, with room for `rank`.
        rank: of all adapters together that find room.
        arithmetic: on the blocks' device.
    """

    def __init__(self, blocks: Sequence[BlockWeights], rank: int, arithmetic: Arithmetic) -> None:
        self._rank = rank
        self._arithmetic = arithmetic
        self._matrices = {
            f"block{index}.img_{name}": (getattr(block.img, name), parts)
            for index, block in enumerate(blocks)
            for name, parts in PARTS.items()
        }
        sizes = [parts * rank * m.weight.shape[1] for m, parts in self._matrices.values()]
        memory = blocks[0].img.out.weight.new_empty(sum(sizes))
        self._windows = {
            site: piece.view(parts * rank, -1)
            for (site, (_, parts)), piece in zip(
                self._matrices.items(), memory.split(sizes), strict=True
            )
        }
        self._held: tuple[GatedAdapter, ...] = ()
        self._used: dict[str, Tensor] = {}
        self.room = 0
        """Free columns that every activation needs behind its rows."""

    def hold(self, adapters: Sequence[GatedAdapter]) -> bool:
        """Sees to it that these are folded in; False if there is no room for all of them.

        What was folded in before may be in use by work begun earlier on the same stream.
        """
        if self.holds(adapters):
            return True
        pieces: list[Piece] = []
        used: dict[str, Tensor] = {}
        for site, (matrix, parts) in self._matrices.items():
            found = _pieces(site, matrix, self._windows[site], adapters, parts * self._rank)
            if found is None:
                return False
            if found:
                pieces += found
                used[site] = self._windows[site][: sum(len(piece.window) for piece in found)]
        self._arithmetic.fold_(pieces)
        self._held, self._used = tuple(adapters), used
        self.room = -(-max(map(len, used.values()), default=0) // ROOM) * ROOM
        return True

    def holds(self, adapters: Sequence[GatedAdapter]) -> bool:
        """Whether exactly these are folded in: the same versions with the same weights."""
        return len(adapters) == len(self._held) and all(
            ours.tensors is theirs.tensors and ours.gate == theirs.gate
            for ours, theirs in zip(self._held, adapters, strict=True)
        )

    def columns(self, site: str) -> int:
        """How many a product is longer by; 0 where nothing is folded in."""
        window = self._used.get(site)
        return 0 if window is None else len(window)

    def reduce(self, x: Tensor, site: str) -> Tensor:
        """[rows, in + columns] of x [rows, in]: what the longer product reads."""
        window = self._used.get(site)
        if window is None:
            return x
        self._arithmetic.reduce_(x, window)
        return wider(x, len(window))


def _pieces(
    site: str, matrix: Matrix, window: Tensor, adapters: Sequence[GatedAdapter], most: int
) -> list[Piece] | None:
    """Where each adapter goes at a site; None if they do not all fit."""
    pieces, begin = [], 0
    tail = wider(matrix.weight, most)[:, -most:]
    for adapter in adapters:
        factors = adapter.tensors.factors.get(site)
        if factors is None:
            continue
        end = begin + -(-len(factors.down) // COLUMNS) * COLUMNS
        if end > most:
            return None
        pieces.append(Piece(*factors, adapter.gate, window[begin:end], tail[:, begin:end]))
        begin = end
    return pieces
