"""The double-stream diffusion transformer of Qwen-Image, as weights and functions.

Owns one forward pass of one or more images; knows nothing of sampling, prompts or requests. The
timestep reaches it only as rows of a modulation table (see `modulation`), q, k and v of a stream
are one product, and the weights of a block lie in one flat buffer, so that a block can be moved
with one copy. Several images go through a block one after another: at 4,096 tokens each fills
the device alone, so they share the reading of weights and nothing else, and each keeps its own
noise level, prompt length and adapters without padding. What a block does is in `block`. Source of
the arithmetic: diffusers `transformer_qwenimage.py`, 0.42.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, cast

from torch import Tensor
from torch.nn import functional as F

from inference_server.model.block import Block, Stream
from inference_server.model.fold import Fold
from inference_server.model.kernels.low_rank import GatedAdapter, adapted_linear
from inference_server.model.kernels.ops import EPS, Ops
from inference_server.model.kernels.side_stream import Fork
from inference_server.model.offload.layers import Layers
from inference_server.model.offload.pinned_memory import sent
from inference_server.model.rope import Rotation, image_rotation, text_rotation
from inference_server.model.transformer_weights import BlockWeights, EdgeWeights, TransformerConfig
from wuliart_contract.limits import MAX_PROMPT_TOKENS


class StepModulation(NamedTuple):
    """One noise level's rows of the modulation table, adapters' deltas added."""

    blocks: Tensor
    """[blocks, 2 streams (img, txt), 6, D]: shift, 1 + scale, gate for attention, then for mlp."""
    final: Tensor
    """[2, D]: 1 + scale, shift."""


class ImageInputs(NamedTuple):
    """One image's part of a forward pass."""

    latents: Tensor
    """[image tokens, in_channels], packed, in the model's dtype."""
    prompt: Tensor
    """[text tokens, text_features], the text encoder's output."""
    prompt_rotation: Rotation
    """From `Transformer.text_rotation`."""
    modulation: StepModulation
    """Its noise level's rows."""
    adapters: Sequence[GatedAdapter] = ()


def prompt_lengths(images: int, queries: int) -> list[int]:
    """One number of text tokens for each multiple of `queries` that text and image round up to."""
    if queries == 1:
        return [1]
    lengths = range(1, MAX_PROMPT_TOKENS + 1)
    return list({-(-(texts + images) // queries): texts for texts in lengths}.values())


class Transformer:
    """Weights of the whole transformer and its forward pass.

    Args:
        config: its shape.
        edges: weights before and after the blocks.
        blocks: their weights, wherever they lie.
        grid: (rows, columns) of image tokens; fixed, as the image's size is.
        ops: what lies between the products.
        fold: where adapters become part of the products; None if blocks have no room for them.
    """

    def __init__(
        self,
        config: TransformerConfig,
        edges: EdgeWeights,
        blocks: Layers[BlockWeights],
        grid: tuple[int, int],
        ops: Ops,
        fold: Fold | None = None,
    ) -> None:
        self.config = config
        self._edges = edges
        self.blocks = blocks
        self._grid = grid
        self._ops = ops
        self._fold = fold
        device = edges.img_in.device
        self._fork = Fork(device)
        self._image_rotation = Rotation(
            *(t.to(device) for t in image_rotation(*grid, config.rope_axes))
        )

    @property
    def prompt_lengths(self) -> Sequence[int]:
        """One number of text tokens for each shape that the attention's kernels are chosen for."""
        return prompt_lengths(self._grid[0] * self._grid[1], self._ops.queries)

    def text_rotation(self, tokens: int) -> Rotation:
        """Rotation of a prompt of that many tokens, on the model's device."""
        rotation = text_rotation(tokens, *self._grid, self.config.rope_axes)
        return Rotation(*(sent(t, self._edges.img_in.device) for t in rotation))

    def forward(
        self, images: Sequence[ImageInputs], between: Callable[[], None] = lambda: None
    ) -> list[Tensor]:
        """Predicts the velocity of each image at its own noise level.

        Args:
            images: at least one.
            between: called after each block; may begin other work on the device.

        Returns:
            [image tokens, patch * patch * out_channels] each, packed.
        """
        # One set for the whole pass: an image with other adapters adds them by itself.
        if self._fold is not None:
            adapterd = (image.adapters for image in images if image.adapters)
            any(self._fold.hold(adapters) for adapters in adapterd)
        streams = [self.begin(image) for image in images]
        for index, weights in enumerate(self.blocks):
            for image, (img, txt) in zip(images, streams, strict=True):
                self.through(index, weights, image, img, txt)
            between()
        e = self._edges
        return [
            adapted_linear(
                cast(Tensor, img.normed), e.proj_out, e.proj_out_bias, "proj_out", image.adapters
            )
            for image, (img, _) in zip(images, streams, strict=True)
        ]

    def begin(self, image: ImageInputs) -> tuple[Stream, Stream]:
        """The image's and the text's stream before the first block."""
        e, adapters = self._edges, image.adapters
        img = adapted_linear(image.latents, e.img_in, e.img_in_bias, "img_in", adapters)
        txt = F.rms_norm(image.prompt, (image.prompt.shape[-1],), e.txt_norm, EPS)
        txt = adapted_linear(txt, e.txt_in, e.txt_in_bias, "txt_in", adapters)
        first, norm = image.modulation.blocks[0], self._ops.modulated_norm
        room = fold.room if (fold := self._folded(image)) else 0
        return (
            Stream(img, norm(img, first[0, 0], first[0, 1], False, room)),
            Stream(txt, norm(txt, first[1, 0], first[1, 1], False, room)),
        )

    def _folded(self, image: ImageInputs) -> Fold | None:
        """Where the image's adapters are part of the products, if they are."""
        fold = self._fold
        return fold if fold and image.adapters and fold.holds(image.adapters) else None

    def through(
        self, index: int, w: BlockWeights, image: ImageInputs, img: Stream, txt: Stream
    ) -> None:
        """One block; nothing reads the text stream after the last one.

        A text is so short that its products wait for memory, while the image's keep the arithmetic
        busy: they run beside each other.
        """
        block = Block(index, self._ops, self._fork, image.adapters, self._folded(image))
        rotations = (self._image_rotation, image.prompt_rotation)
        img_attended, txt_attended = block.attend(w, img, txt, rotations)
        mod, final = image.modulation.blocks[index], image.modulation.final
        if index == self.config.blocks - 1:
            block.after_attention(
                "img", img, img_attended, w.img, mod[0], (final[1], final[0]), True
            )
            return
        then = image.modulation.blocks[index + 1]
        self._fork.part()
        block.after_attention("img", img, img_attended, w.img, mod[0], (then[0, 0], then[0, 1]))
        with self._fork:
            block.after_attention("txt", txt, txt_attended, w.txt, mod[1], (then[1, 0], then[1, 1]))
        self._fork.join()
