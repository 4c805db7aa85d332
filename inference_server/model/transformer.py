"""The double-stream diffusion transformer of Qwen-Image, as weights and functions.

Owns one forward pass at one noise level; knows nothing of sampling, prompts or requests. The
timestep reaches it only as rows of a modulation table (see `modulation`), q, k and v of a stream
are one product, and the weights of a block lie in one flat buffer, so that a block can be moved
with one copy. Source of the arithmetic: diffusers `transformer_qwenimage.py`, 0.42.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.errors import ModelError
from inference_server.model.low_rank import GatedAdapter, adapted_linear
from inference_server.model.rope import Rotation, image_rotation, rotate, text_rotation

EPS = 1e-6


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shape of the transformer; the real Qwen-Image is the default."""

    blocks: int = 60
    heads: int = 24
    head_dim: int = 128
    in_channels: int = 64
    out_channels: int = 16
    patch: int = 2
    text_features: int = 3584
    rope_axes: tuple[int, int, int] = (16, 56, 56)

    @property
    def width(self) -> int:
        """Features of a token in either stream."""
        return self.heads * self.head_dim

    @property
    def mlp_width(self) -> int:
        """Inner features of the feed-forward layers."""
        return 4 * self.width

    @property
    def output_features(self) -> int:
        """Features of a predicted token."""
        return self.patch * self.patch * self.out_channels

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> TransformerConfig:
        """From the component's config.json.

        Raises:
            ModelError: the checkpoint is of a variant this server does not draw with.
        """
        name = config.get("_class_name", "QwenImageTransformer2DModel")
        if name != "QwenImageTransformer2DModel":
            raise ModelError(f"transformer/config.json is of a {name}; expected Qwen-Image")
        for flag in ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
            if config.get(flag):
                raise ModelError(
                    f"transformer/config.json sets {flag}: this is an edit or layered variant, "
                    "not a text-to-image checkpoint"
                )
        axes = config.get("axes_dims_rope", (16, 56, 56))
        return cls(
            blocks=config.get("num_layers", 60),
            heads=config.get("num_attention_heads", 24),
            head_dim=config.get("attention_head_dim", 128),
            in_channels=config.get("in_channels", 64),
            out_channels=config.get("out_channels") or config.get("in_channels", 64),
            patch=config.get("patch_size", 2),
            text_features=config.get("joint_attention_dim", 3584),
            rope_axes=(axes[0], axes[1], axes[2]),
        )


class StreamWeights(NamedTuple):
    """One stream (image or text) of a block; D width, M mlp width, H head_dim."""

    qkv: Tensor
    """[3D, D]"""
    qkv_bias: Tensor
    q_norm: Tensor
    """[H]"""
    k_norm: Tensor
    out: Tensor
    """[D, D]"""
    out_bias: Tensor
    mlp_up: Tensor
    """[M, D]"""
    mlp_up_bias: Tensor
    mlp_down: Tensor
    """[D, M]"""
    mlp_down_bias: Tensor


class BlockWeights(NamedTuple):
    """One double-stream block without its modulation layers."""

    img: StreamWeights
    txt: StreamWeights


class EdgeWeights(NamedTuple):
    """What lies before and after the blocks."""

    img_in: Tensor
    img_in_bias: Tensor
    txt_norm: Tensor
    txt_in: Tensor
    txt_in_bias: Tensor
    proj_out: Tensor
    proj_out_bias: Tensor


class StepModulation(NamedTuple):
    """One noise level's rows of the modulation table, adapters' deltas added."""

    blocks: Tensor
    """[blocks, 2 streams (img, txt), 6, D]: shift, 1 + scale, gate for attention, then for mlp."""
    final: Tensor
    """[2, D]: 1 + scale, shift."""


def _modulated_norm(x: Tensor, shift: Tensor, one_plus_scale: Tensor) -> Tensor:
    """LayerNorm(x) * (1 + scale) + shift; the modulation is the norm's affine part."""
    return F.layer_norm(x, (x.shape[-1],), one_plus_scale, shift, EPS)


def _queries_keys_values(
    x: Tensor, w: StreamWeights, rotation: Rotation, site: str, adapters: Sequence[GatedAdapter]
) -> tuple[Tensor, Tensor, Tensor]:
    """[tokens, heads, head_dim] each; q and k normalised and rotated."""
    head_dim = w.q_norm.shape[0]
    qkv = adapted_linear(x, w.qkv, w.qkv_bias, site, adapters)
    q, k, v = qkv.unflatten(-1, (3, -1, head_dim)).unbind(1)
    q = rotate(F.rms_norm(q, (head_dim,), w.q_norm, EPS), rotation)
    k = rotate(F.rms_norm(k, (head_dim,), w.k_norm, EPS), rotation)
    return q, k, v


def _after_attention(
    x: Tensor,
    attended: Tensor,
    w: StreamWeights,
    mod: Tensor,
    site: str,
    adapters: Sequence[GatedAdapter],
) -> Tensor:
    """Output projection, feed-forward layer and both residuals of one stream.

    `site` is "block3.img" or the like; mod is [6, D].
    """
    out = adapted_linear(attended, w.out, w.out_bias, f"{site}_out", adapters)
    x = torch.addcmul(x, mod[2], out)
    h = _modulated_norm(x, mod[3], mod[4])
    h = adapted_linear(h, w.mlp_up, w.mlp_up_bias, f"{site}_mlp_up", adapters)
    h = F.gelu(h, approximate="tanh")
    h = adapted_linear(h, w.mlp_down, w.mlp_down_bias, f"{site}_mlp_down", adapters)
    return torch.addcmul(x, mod[5], h)


def block_forward(
    index: int,
    w: BlockWeights,
    img: Tensor,
    txt: Tensor,
    mod: Tensor,
    rotations: tuple[Rotation, Rotation],
    adapters: Sequence[GatedAdapter],
    last: bool,
) -> tuple[Tensor, Tensor]:
    """One block.

    Args:
        index: which block, for the names of adapter sites.
        w: its weights.
        img: [image tokens, D].
        txt: [text tokens, D].
        mod: [2, 6, D], see `StepModulation`.
        rotations: of image and text tokens.
        adapters: active in this picture.
        last: nothing reads the text stream after the last block, so it is not computed there.

    Returns:
        The new img and txt.
    """
    site = f"block{index}"
    img_h = _modulated_norm(img, mod[0, 0], mod[0, 1])
    txt_h = _modulated_norm(txt, mod[1, 0], mod[1, 1])
    iq, ik, iv = _queries_keys_values(img_h, w.img, rotations[0], f"{site}.img_qkv", adapters)
    tq, tk, tv = _queries_keys_values(txt_h, w.txt, rotations[1], f"{site}.txt_qkv", adapters)
    # [1, heads, text + image tokens, head_dim]; no mask: one picture has no padding.
    q, k, v = (torch.cat(pair).transpose(0, 1)[None] for pair in ((tq, iq), (tk, ik), (tv, iv)))
    joint = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
    txt_tokens = txt.shape[0]
    img = _after_attention(img, joint[txt_tokens:], w.img, mod[0], f"{site}.img", adapters)
    if not last:
        txt = _after_attention(txt, joint[:txt_tokens], w.txt, mod[1], f"{site}.txt", adapters)
    return img, txt


class Transformer:
    """Weights of the whole transformer and its forward pass.

    Args:
        config: its shape.
        edges: weights before and after the blocks.
        blocks: one entry per block.
        grid: (rows, columns) of image tokens; fixed, as the picture's size is.
    """

    def __init__(
        self,
        config: TransformerConfig,
        edges: EdgeWeights,
        blocks: Sequence[BlockWeights],
        grid: tuple[int, int],
    ) -> None:
        self.config = config
        self._edges = edges
        self._blocks = blocks
        self._grid = grid
        device = edges.img_in.device
        self._image_rotation = Rotation(
            *(t.to(device) for t in image_rotation(*grid, config.rope_axes))
        )

    def text_rotation(self, tokens: int) -> Rotation:
        """Rotation of a prompt of that many tokens, on the model's device."""
        rotation = text_rotation(tokens, *self._grid, self.config.rope_axes)
        return Rotation(*(t.to(self._edges.img_in.device) for t in rotation))

    def forward(
        self,
        latents: Tensor,
        prompt: Tensor,
        prompt_rotation: Rotation,
        modulation: StepModulation,
        adapters: Sequence[GatedAdapter],
    ) -> Tensor:
        """Predicts the velocity at one noise level.

        Args:
            latents: [image tokens, in_channels], packed, in the model's dtype.
            prompt: [text tokens, text_features], the text encoder's output.
            prompt_rotation: from `text_rotation`.
            modulation: this noise level's rows.
            adapters: active in this picture.

        Returns:
            [image tokens, patch * patch * out_channels], packed.
        """
        e = self._edges
        img = adapted_linear(latents, e.img_in, e.img_in_bias, "img_in", adapters)
        txt = F.rms_norm(prompt, (prompt.shape[-1],), e.txt_norm, EPS)
        txt = adapted_linear(txt, e.txt_in, e.txt_in_bias, "txt_in", adapters)
        rotations = (self._image_rotation, prompt_rotation)
        final = len(self._blocks) - 1
        for index, weights in enumerate(self._blocks):
            img, txt = block_forward(
                index,
                weights,
                img,
                txt,
                modulation.blocks[index],
                rotations,
                adapters,
                last=index == final,
            )
        img = _modulated_norm(img, modulation.final[1], modulation.final[0])
        return adapted_linear(img, e.proj_out, e.proj_out_bias, "proj_out", adapters)
