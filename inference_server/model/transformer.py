"""The double-stream diffusion transformer of Qwen-Image.

Differences from diffusers `transformer_qwenimage.py` 0.42, the source of the arithmetic: the
timestep enters only as rows of a modulation table (see `modulation`); q, k and v of a stream are
one product; a block's weights lie in one flat buffer, so one copy moves a block.

Several images pass through a block one after another instead of as a batch. At 4,096 tokens each
image fills the device alone, so sharing saves only the reading of weights, and each image keeps its
own noise level, prompt length and adapters without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from torch import Tensor
from torch.nn import functional as F

from inference_server.model.block import Block, Stream
from inference_server.model.folded_adapters import FoldedAdapters
from inference_server.model.host_to_device import copy_to_device
from inference_server.model.kernels.low_rank import (
    GatedAdapter,
    adapted_linear,
    adapted_vector,
)
from inference_server.model.kernels.operations import EPS, Operations
from inference_server.model.kernels.side_stream import SideStream
from inference_server.model.modulation import StepModulation
from inference_server.model.offload.layers import Layers
from inference_server.model.rope import Rotation, image_rotation, text_rotation
from inference_server.model.transformer_weights import BlockWeights, EdgeWeights, TransformerConfig
from wuliart_contract.limits import MAX_PROMPT_TOKENS


class ImageInputs(NamedTuple):
    """One image's inputs of a forward pass."""

    latents: Tensor
    """[image tokens, in_channels], packed, in the model's dtype."""
    prompt: Tensor
    """[text tokens, text_features], the text encoder's output."""
    prompt_rotation: Rotation
    """From `Transformer.text_rotation`."""
    modulation: StepModulation
    """The rows of the image's noise level."""
    adapters: Sequence[GatedAdapter] = ()


def prompt_lengths(image_tokens: int, query_multiple: int) -> list[int]:
    """Returns one prompt length per padded sequence length that a prompt can produce.

    Text and image tokens together are padded to a multiple of `query_multiple`.
    """
    if query_multiple == 1:
        return [1]
    lengths = range(1, MAX_PROMPT_TOKENS + 1)
    return list(
        {-(-(length + image_tokens) // query_multiple): length for length in lengths}.values()
    )


class Transformer:
    """The transformer's weights and its forward pass.

    Args:
        config: its shape.
        edges: weights before and after the blocks.
        blocks: the blocks' weights, resident or streamed.
        grid: (rows, columns) of image tokens; fixed, as the image's size is.
        ops: the operations between the products.
        folded: the adapters folded into the products; None if blocks have no spare columns.
    """

    def __init__(
        self,
        config: TransformerConfig,
        edges: EdgeWeights,
        blocks: Layers[BlockWeights],
        *,
        grid: tuple[int, int],
        ops: Operations,
        folded: FoldedAdapters | None = None,
    ) -> None:
        self.config = config
        self._edges = edges
        self.blocks = blocks
        self._grid = grid
        self._ops = ops
        self.folded = folded
        device = edges.img_in.device
        self._side = SideStream(device)
        self._image_rotation = Rotation(
            *(t.to(device) for t in image_rotation(*grid, config.rope_axes))
        )

    @property
    def prompt_lengths(self) -> Sequence[int]:
        """One prompt length per shape that the attention kernels are chosen for."""
        return prompt_lengths(self._grid[0] * self._grid[1], self._ops.QUERY_MULTIPLE)

    def text_rotation(self, tokens: int) -> Rotation:
        """Returns the rotation of a prompt of that many tokens, on the model's device."""
        rotation = text_rotation(tokens, *self._grid, self.config.rope_axes)
        return Rotation(*(copy_to_device(t, self._edges.img_in.device) for t in rotation))

    def forward(
        self, images: Sequence[ImageInputs], between: Callable[[], None] = lambda: None
    ) -> list[Tensor]:
        """Predicts the velocity of each image at its own noise level.

        Args:
            images: at least one.
            between: called after each block; may launch other work on the device.

        Returns:
            One tensor per image, [image tokens, patch * patch * out_channels], packed.
        """
        # The first set that fits is folded in for the whole pass; images with other adapters add
        # them beside the products.
        if self.folded is not None:
            sets = (image.adapters for image in images if image.adapters)
            any(
                self.folded.fold(adapters)
                for adapters in sets
                if any(adapter.tensors.factors for adapter in adapters)
            )
        streams = [self.begin(image) for image in images]
        for index, weights in enumerate(self.blocks):
            for image, (img, txt) in zip(images, streams, strict=True):
                self.run_block(index, weights, image, img=img, txt=txt)
            between()
        e = self._edges
        return [
            adapted_linear(
                cast(Tensor, img.normed),
                e.proj_out,
                e.proj_out_bias,
                site="proj_out",
                adapters=image.adapters,
                ops=self._ops,
            )
            for image, (img, _) in zip(images, streams, strict=True)
        ]

    def begin(self, image: ImageInputs) -> tuple[Stream, Stream]:
        """Returns the image's and the text's stream before the first block."""
        e, adapters, ops = self._edges, image.adapters, self._ops
        img = adapted_linear(
            image.latents, e.img_in, e.img_in_bias, site="img_in", adapters=adapters, ops=ops
        )
        txt_norm = adapted_vector(e.txt_norm, site="txt_norm", adapters=adapters)
        txt = F.rms_norm(image.prompt, (image.prompt.shape[-1],), txt_norm, EPS)
        txt = adapted_linear(
            txt, e.txt_in, e.txt_in_bias, site="txt_in", adapters=adapters, ops=ops
        )
        first = image.modulation.blocks[0]
        folded = self._folded_for(image)
        spare_columns = folded.spare_columns if folded else 0
        img_normed, txt_normed = (
            self._ops.modulated_norm(
                x, modulation[0], modulation[1], quantized=False, spare_columns=spare_columns
            )
            for x, modulation in ((img, first[0]), (txt, first[1]))
        )
        return Stream(img, img_normed), Stream(txt, txt_normed)

    def _folded_for(self, image: ImageInputs) -> FoldedAdapters | None:
        """Returns the folded adapters if they are exactly this image's."""
        folded = self.folded
        return folded if folded and image.adapters and folded.holds(image.adapters) else None

    def run_block(
        self, index: int, w: BlockWeights, image: ImageInputs, *, img: Stream, txt: Stream
    ) -> None:
        """Applies one block to both streams; after the last block only the image's is needed.

        A text has few tokens, so its products are bound by memory while the image's are bound by
        arithmetic: the side stream runs them at the same time.
        """
        block = Block(
            index,
            ops=self._ops,
            side=self._side,
            adapters=image.adapters,
            folded=self._folded_for(image),
        )
        rotations = (self._image_rotation, image.prompt_rotation)
        img_attended, txt_attended = block.attend(w, img, txt, rotations=rotations)
        mod, final = image.modulation.blocks[index], image.modulation.final
        if index == self.config.blocks - 1:
            block.after_attention(
                "img",
                img,
                img_attended,
                w=w.img,
                modulation=mod[0],
                following=(final[1], final[0]),
                last=True,
            )
            return
        then = image.modulation.blocks[index + 1]
        self._side.begin()
        block.after_attention(
            "img",
            img,
            img_attended,
            w=w.img,
            modulation=mod[0],
            following=(then[0, 0], then[0, 1]),
        )
        with self._side:
            block.after_attention(
                "txt",
                txt,
                txt_attended,
                w=w.txt,
                modulation=mod[1],
                following=(then[1, 0], then[1, 1]),
            )
        self._side.join()
