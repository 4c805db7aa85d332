"""The shape of the transformer, and the weights of its parts as the forward pass reads them.

Owns names and shapes; where the tensors lie and how they are stored is up to others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.ops import Quantised


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


class Matrix(NamedTuple):
    """One product's weights: y = x W^T + b."""

    weight: Tensor
    """[out, in]; float8_e4m3fn if there is a scale."""
    bias: Tensor
    scale: Tensor | None = None
    """[out, 1] float32: weight * scale is meant."""

    @property
    def quantised(self) -> Quantised | None:
        """The weight as eight-bit products take it; None if it is not one."""
        return None if self.scale is None else Quantised(self.weight, self.scale)


class StreamWeights(NamedTuple):
    """One stream (image or text) of a block; D width, M mlp width, H head_dim."""

    qkv: Matrix
    """[3D, D]"""
    q_norm: Tensor
    """[H]"""
    k_norm: Tensor
    out: Matrix
    """[D, D]"""
    mlp_up: Matrix
    """[M, D]"""
    mlp_down: Matrix
    """[D, M]"""


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

    @property
    def nbytes(self) -> int:
        """Of all of them."""
        return sum(weight.nbytes for weight in self)
