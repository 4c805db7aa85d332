"""One double-stream block of the transformer, applied to one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.folded_adapters import FoldedAdapters
from inference_server.model.kernels.folding import extended
from inference_server.model.kernels.low_rank import GatedAdapter, adapted_linear, add_adapters
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
            HeadNorms(weights.q_norm, weights.k_norm, rotation)
            for weights, rotation in zip((w.txt, w.img), reversed(rotations), strict=True)
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

        An adapter that is added beside mlp_up must come before the gelu, and so prevents fusing.
        """
        ops, up, down = self._ops, f"{name}_mlp_up", f"{name}_mlp_down"
        if (quantized := w.mlp_down.quantized) and not self._acts_on(down):
            wide = ops.quantize(self._linear(h, w.mlp_up, up), gelu=True)
            return ops.scaled_linear(wide, quantized, w.mlp_down.bias)
        beside = self._acts_on(up) and self._folded is None
        if isinstance(h, Quantized) or w.mlp_up.scale is not None or beside:
            h = F.gelu(self._linear(h, w.mlp_up, up), approximate="tanh")
        else:
            h = self._linear_gelu(h, w.mlp_up, name=up, then=down)
        return self._linear(h, w.mlp_down, down)

    def _linear_gelu(self, x: Tensor, m: Matrix, *, name: str, then: str) -> Tensor:
        """Computes one product with a gelu epilogue.

        The product is longer by its own adapters' columns, and has spare rows for the columns of
        the adapters at `then`, the product that follows.
        """
        rows, weight, bias = 0, m.weight, m.bias
        if (folded := self._folded) is not None:
            rows, x = folded.columns(self._site(then)), folded.reduce(x, self._site(name))
            weight = extended(weight, folded.columns(self._site(name)), rows)
            bias = bias.as_strided((len(bias) + rows,), (1,))
        y = self._ops.linear_gelu(x, weight, bias)
        return y[:, : y.shape[1] - rows]

    def _acts_on(self, name: str) -> bool:
        return any(self._site(name) in adapter.tensors.factors for adapter in self._adapters)

    def _site(self, name: str) -> str:
        return f"block{self._index}.{name}"

    def _linear(self, x: Normed, m: Matrix, name: str, *, out: Tensor | None = None) -> Tensor:
        """Computes one product with the image's adapters, however m and x are stored."""
        site, quantized = self._site(name), m.quantized
        if isinstance(x, Quantized):
            assert quantized is not None
            return self._ops.scaled_linear(x, quantized, m.bias, out=out)
        if (folded := self._folded) is not None:
            x, weight = folded.reduce(x, site), extended(m.weight, folded.columns(site))
            return torch.addmm(m.bias, x, weight.T, out=out)
        if quantized is None:
            return adapted_linear(x, m.weight, m.bias, site=site, adapters=self._adapters, out=out)
        y = self._ops.scaled_linear(self._ops.quantize(x), quantized, m.bias, out=out)
        return add_adapters(y, x, site=site, adapters=self._adapters)
