"""One double-stream block of the transformer, applied to one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.folded_adapters import FoldedAdapters
from inference_server.model.kernels.folding import extended
from inference_server.model.kernels.low_rank import (
    GatedAdapter,
    adapted_vector,
    add_kronecker,
    add_low_rank,
)
from inference_server.model.kernels.operations import HeadNorms, Normed, Operations, Quantized
from inference_server.model.kernels.side_stream import SideStream
from inference_server.model.rope import Rotation
from inference_server.model.transformer_weights import BlockWeights, Matrix, StreamWeights


@dataclass(slots=True)
class Stream:
    """An image's or a text's hidden state on its way through the blocks."""

    x: Tensor
    """[tokens, D], the residual that every layer adds to."""
    normed: Normed
    """[tokens, D], input of the next layer."""


class Block:
    """The order of one block's products, norms and residuals, for one image.

    Args:
        index: the block's number, which is part of its sites' names.
        ops: the operations between the products.
        side: stream for the text's products.
        adapters: the image's adapters.
        folded: set if the image's adapters are folded into the products.
    """

    def __init__(
        self,
        index: int,
        *,
        ops: Operations,
        side: SideStream,
        adapters: Sequence[GatedAdapter],
        folded: FoldedAdapters | None,
    ) -> None:
        self._index = index
        self._ops = ops
        self._side = side
        self._adapters = adapters
        self._folded = folded
        self._spare_columns = folded.spare_columns if folded else 0

    def attend(
        self,
        w: BlockWeights,
        img: Stream,
        txt: Stream,
        *,
        rotations: tuple[Rotation, Rotation],
    ) -> tuple[Tensor, Tensor]:
        """Computes joint attention over the normed streams.

        Args:
            w: the block's weights.
            img: I tokens.
            txt: T tokens.
            rotations: of the image's and the text's tokens.

        Returns:
            [I, D] and [T, D].
        """
        text_tokens, (image_tokens, width) = len(txt.x), img.x.shape
        padding = -(text_tokens + image_tokens) % self._ops.QUERY_MULTIPLE
        padded = img.x.new_empty(padding + text_tokens + image_tokens, 3 * width)
        qkv = padded[padding:]
        self._side.begin()
        self._linear(img.normed, w.img.qkv, "img_qkv", out=qkv[text_tokens:])
        with self._side:
            self._linear(txt.normed, w.txt.qkv, "txt_qkv", out=qkv[:text_tokens])
        self._side.join()
        norms = [
            HeadNorms(
                self._adapted(weights.q_norm, f"{name}_q_norm"),
                self._adapted(weights.k_norm, f"{name}_k_norm"),
                rotation,
            )
            for name, weights, rotation in zip(
                ("txt", "img"), (w.txt, w.img), reversed(rotations), strict=True
            )
        ]
        self._ops.norm_rotate_(qkv, *norms)
        joint = self._ops.attention(
            padded,
            heads=width // w.img.q_norm.shape[0],
            text_tokens=text_tokens,
            image_tokens=image_tokens,
            spare_columns=self._spare_columns,
        )[padding:]
        return joint[text_tokens:], joint[:text_tokens]

    def after_attention(
        self,
        name: str,
        stream: Stream,
        attended: Tensor,
        *,
        w: StreamWeights,
        modulation: Tensor,
        following: tuple[Tensor, Tensor],
        last: bool = False,
    ) -> None:
        """Computes the output projection, the feed-forward layer and both residuals of one stream.

        Args:
            name: img or txt.
            stream: updated to what the next block reads.
            attended: [tokens, D], from `attend`.
            w: the stream's weights.
            modulation: [6, D]; see `StepModulation`.
            following: shift and 1 + scale of the next layer's norm, [D] each.
            last: the final projection follows instead of a block; it is not quantized.
        """
        ops, spare = self._ops, self._spare_columns
        # Adapters need the exact activations, so with any of them the norms stay unquantized.
        quantized = w.qkv.scale is not None and not self._adapters
        out = self._linear(attended, w.out, f"{name}_out")
        h = ops.residual_norm_(
            stream.x,
            out,
            modulation[2],
            shift=modulation[3],
            one_plus_scale=modulation[4],
            quantized=quantized,
            spare_columns=spare,
        )
        h = self._feed_forward(name, h, w)
        shift, one_plus_scale = following
        stream.normed = ops.residual_norm_(
            stream.x,
            h,
            modulation[5],
            shift=shift,
            one_plus_scale=one_plus_scale,
            quantized=quantized and not last,
            spare_columns=spare,
        )

    def _feed_forward(self, name: str, h: Normed, w: StreamWeights) -> Tensor:
        """Computes down(gelu(up(h))), with the gelu fused into a neighbour where possible.

        An adapter that is added beside mlp_up must come before the gelu: the last Kronecker product
        fuses it, a low-rank one does not.
        """
        ops, up, down = self._ops, f"{name}_mlp_up", f"{name}_mlp_down"
        if (quantized := w.mlp_down.quantized) and not self._acts_on(down):
            wide = ops.quantize(self._linear(h, w.mlp_up, up), gelu=True)
            bias = self._adapted(w.mlp_down.bias, f"{down}.bias")
            return ops.scaled_linear(wide, quantized, bias)
        beside = self._folded is None and self._has_factors(up)
        if isinstance(h, Quantized) or w.mlp_up.scale is not None or beside:
            h = F.gelu(self._linear(h, w.mlp_up, up), approximate="tanh")
        else:
            h = self._linear_gelu(h, w.mlp_up, name=up, then=down)
        return self._linear(h, w.mlp_down, down)

    def _linear_gelu(self, x: Tensor, m: Matrix, *, name: str, then: str) -> Tensor:
        """Computes one product with a gelu behind it.

        The product is longer by its own folded adapters' columns, and has spare rows for the
        columns of those at `then`, the product that follows.
        """
        site = self._site(name)
        rows, longer, weight = 0, x, m.weight
        bias = self._adapted(m.bias, f"{name}.bias")
        if (folded := self._folded) is not None:
            rows, longer = folded.columns(self._site(then)), folded.reduce(x, site)
            weight = extended(weight, folded.columns(site), rows)
            # What the spare rows give is never read.
            bias = F.pad(bias, (0, rows)) if bias is not m.bias else bias
            bias = bias.as_strided((len(m.bias) + rows,), (1,))
        if not self._has_kronecker(name):
            y = self._ops.linear_gelu(longer, weight, bias)
            return y[:, : y.shape[1] - rows]
        y = torch.addmm(bias, longer, weight.T)
        y = y[:, : y.shape[1] - rows]
        add_kronecker(y, x, site=site, adapters=self._adapters, ops=self._ops, gelu=True)
        return y

    def _acts_on(self, name: str) -> bool:
        return self._has_factors(name) or self._has_kronecker(name)

    def _has_factors(self, name: str) -> bool:
        return any(self._site(name) in adapter.tensors.factors for adapter in self._adapters)

    def _has_kronecker(self, name: str) -> bool:
        return any(self._site(name) in adapter.tensors.kronecker for adapter in self._adapters)

    def _site(self, name: str) -> str:
        return f"block{self._index}.{name}"

    def _adapted(self, vector: Tensor, name: str) -> Tensor:
        """Returns a bias or a norm's weight with what the image's adapters add."""
        return adapted_vector(vector, site=self._site(name), adapters=self._adapters)

    def _linear(self, x: Normed, m: Matrix, name: str, *, out: Tensor | None = None) -> Tensor:
        """Computes one product with the image's adapters, however m and x are stored."""
        site, quantized, ops = self._site(name), m.quantized, self._ops
        if isinstance(x, Quantized):
            assert quantized is not None
            return ops.scaled_linear(x, quantized, m.bias, out=out)
        bias = self._adapted(m.bias, f"{name}.bias")
        if (folded := self._folded) is not None:
            longer, weight = folded.reduce(x, site), extended(m.weight, folded.columns(site))
            y = torch.addmm(bias, longer, weight.T, out=out)
        else:
            if quantized is None:
                y = torch.addmm(bias, x, m.weight.T, out=out)
            else:
                y = ops.scaled_linear(ops.quantize(x), quantized, bias, out=out)
            add_low_rank(y, x, site=site, adapters=self._adapters)
        add_kronecker(y, x, site=site, adapters=self._adapters, ops=ops)
        return y
