"""One double-stream block at work on one image.

Owns the order of its products, norms and residuals, and what runs beside what. Which block it is,
and where its weights lie, is `transformer`'s; what lies between the products is in `ops`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.fold import Fold, wider
from inference_server.model.kernels.low_rank import GatedAdapter, adapted_linear, add_adapters
from inference_server.model.kernels.ops import HeadNorms, Normed, Ops, Quantised
from inference_server.model.kernels.side_stream import Fork
from inference_server.model.rope import Rotation
from inference_server.model.transformer_weights import BlockWeights, Matrix, StreamWeights


@dataclass(slots=True)
class Stream:
    """One stream of an image on its way through the blocks."""

    x: Tensor
    """[tokens, D], to which every layer adds."""
    normed: Normed
    """What the next layer reads of it."""


class Block:
    """One block at work on one image: what all its products need to know."""

    def __init__(
        self,
        index: int,
        ops: Ops,
        fork: Fork,
        adapters: Sequence[GatedAdapter],
        fold: Fold | None,
    ) -> None:
        self._site = f"block{index}"
        self._ops = ops
        self._fork = fork
        self._adapters = adapters
        self._fold = fold
        """Where the adapters are, if they are folded in."""
        self._room = fold.room if fold else 0

    def attend(
        self,
        w: BlockWeights,
        img: Stream,
        txt: Stream,
        rotations: tuple[Rotation, Rotation],
    ) -> tuple[Tensor, Tensor]:
        """[tokens, D] of img and txt, from their normed streams."""
        texts, (tokens, width) = len(txt.x), img.x.shape
        pads = -(texts + tokens) % self._ops.queries
        padded = img.x.new_empty(pads + texts + tokens, 3 * width)
        qkv = padded[pads:]
        self._fork.part()
        self._linear(img.normed, w.img.qkv, "img_qkv", qkv[texts:])
        with self._fork:
            self._linear(txt.normed, w.txt.qkv, "txt_qkv", qkv[:texts])
        self._fork.join()
        norms = [
            HeadNorms(weights.q_norm, weights.k_norm, rotation)
            for weights, rotation in zip((w.txt, w.img), reversed(rotations), strict=True)
        ]
        self._ops.norm_rotate_(qkv, *norms)
        heads = width // w.img.q_norm.shape[0]
        joint = self._ops.attention(padded, heads, texts, tokens, self._room)[pads:]
        return joint[texts:], joint[:texts]

    def after_attention(
        self,
        name: str,
        stream: Stream,
        attended: Tensor,
        w: StreamWeights,
        mod: Tensor,
        following: tuple[Tensor, Tensor],
        last: bool = False,
    ) -> None:
        """Output projection, feed-forward layer and both residuals of one stream.

        Args:
            name: img or txt.
            stream: becomes what the next block reads.
            attended: [tokens, D].
            w: its weights.
            mod: [6, D].
            following: shift and 1 + scale of the next layer's norm.
            last: whether no block follows.
        """
        ops = self._ops
        # An adapter wants the bits that eight have no room for.
        eight = w.qkv.scale is not None and not self._adapters
        out = self._linear(attended, w.out, f"{name}_out")
        h = ops.residual_norm_(stream.x, out, mod[2], mod[3], mod[4], eight, self._room)
        h = self._feed_forward(name, h, w)
        eight = eight and not last
        stream.normed = ops.residual_norm_(stream.x, h, mod[5], *following, eight, self._room)

    def _feed_forward(self, name: str, h: Normed, w: StreamWeights) -> Tensor:
        """Up, gelu and down; the gelu is part of a neighbour unless an adapter is between them."""
        ops, up, down = self._ops, f"{name}_mlp_up", f"{name}_mlp_down"
        if (eight := w.mlp_down.quantised) and not self._acts_on(down):
            wide = ops.quantise(self._linear(h, w.mlp_up, up), True)
            return ops.scaled_linear(wide, eight, w.mlp_down.bias, None)
        apart = self._acts_on(up) and self._fold is None
        if isinstance(h, Quantised) or w.mlp_up.scale is not None or apart:
            h = F.gelu(self._linear(h, w.mlp_up, up), approximate="tanh")
        else:
            h = self._linear_gelu(h, w.mlp_up, up, down)
        return self._linear(h, w.mlp_down, down)

    def _linear_gelu(self, x: Tensor, m: Matrix, name: str, then: str) -> Tensor:
        """In one product, which is longer by its own adapters and taller by the next one's."""
        tall, weight, bias = 0, m.weight, m.bias
        if (fold := self._fold) is not None:
            tall, x = fold.columns(self._at(then)), fold.reduce(x, self._at(name))
            weight = wider(weight, fold.columns(self._at(name)), tall)
            bias = bias.as_strided((len(bias) + tall,), (1,))
        y = self._ops.linear_gelu(x, weight, bias)
        return y[:, : y.shape[1] - tall]

    def _acts_on(self, name: str) -> bool:
        return any(self._at(name) in adapter.tensors.factors for adapter in self._adapters)

    def _at(self, name: str) -> str:
        return f"{self._site}.{name}"

    def _linear(self, x: Normed, m: Matrix, name: str, out: Tensor | None = None) -> Tensor:
        site, eight = self._at(name), m.quantised
        if isinstance(x, Quantised):
            assert eight is not None
            return self._ops.scaled_linear(x, eight, m.bias, out)
        if (fold := self._fold) is not None:
            x, weight = fold.reduce(x, site), wider(m.weight, fold.columns(site))
            return torch.addmm(m.bias, x, weight.T, out=out)
        if eight is None:
            return adapted_linear(x, m.weight, m.bias, site, self._adapters, out)
        y = self._ops.scaled_linear(self._ops.quantise(x, False), eight, m.bias, out)
        return add_adapters(y, x, site, self._adapters)
