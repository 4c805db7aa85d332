"""The transformer's shape, and its weights as the forward pass reads them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from inference_server.model.kernels.operations import Quantized

CONFIG_FILE = "transformer/config.json"
MAX_WIDTH = 16_384
"""Largest accepted number of features of a token; Qwen-Image has 3072."""


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """Shape of the transformer; the defaults are those of Qwen-Image."""

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
        """Parses the component's config.json.

        Raises:
            ModelError: a value is out of range, or the checkpoint is of a variant that this server
                does not support.
        """
        values = ConfigValues(CONFIG_FILE, config)
        name = values.text("_class_name", "QwenImageTransformer2DModel")
        if name != "QwenImageTransformer2DModel":
            raise ModelError(f"{CONFIG_FILE} is of a {name}; expected Qwen-Image")
        for flag in ("guidance_embeds", "zero_cond_t", "use_additional_t_cond", "use_layer3d_rope"):
            if values.flag(flag):
                raise ModelError(
                    f"{CONFIG_FILE} sets {flag}: this is an edit or layered variant, "
                    "not a text-to-image checkpoint"
                )
        in_channels = values.integer("in_channels", 64, most=4096)
        has_out = values.has("out_channels")
        head_dim = values.integer("attention_head_dim", 128, most=1024)
        axes = values.integers("axes_dims_rope", [16, 56, 56], most=1024)
        if len(axes) != 3 or sum(axes) != head_dim or any(axis % 2 for axis in axes):
            raise values.wrong(
                "axes_dims_rope", axes, f"three even numbers whose sum is {head_dim}, a head's size"
            )
        return cls(
            blocks=values.integer("num_layers", 60, most=256),
            heads=values.integer("num_attention_heads", 24, most=MAX_WIDTH // head_dim),
            head_dim=head_dim,
            in_channels=in_channels,
            out_channels=values.integer("out_channels", most=4096) if has_out else in_channels,
            patch=values.integer("patch_size", 2, most=16),
            text_features=values.integer("joint_attention_dim", 3584, most=MAX_WIDTH),
            rope_axes=(axes[0], axes[1], axes[2]),
        )


class Matrix(NamedTuple):
    """Weights of one product y = x W^T + b."""

    weight: Tensor
    """[out, in]; float8_e4m3fn if there is a scale."""
    bias: Tensor
    scale: Tensor | None = None
    """[out, 1] float32; W is weight * scale."""

    @property
    def quantized(self) -> Quantized | None:
        """The weight with its scales; None if it is not a float8 one."""
        return None if self.scale is None else Quantized(self.weight, self.scale)


class StreamWeights(NamedTuple):
    """Weights of one stream (image or text) of a block; D width, M mlp width, E head_dim."""

    qkv: Matrix
    """[3D, D]"""
    q_norm: Tensor
    """[E]"""
    k_norm: Tensor
    """[E]"""
    out: Matrix
    """[D, D]"""
    mlp_up: Matrix
    """[M, D]"""
    mlp_down: Matrix
    """[D, M]"""


class BlockWeights(NamedTuple):
    """Weights of one double-stream block without its modulation layers."""

    img: StreamWeights
    txt: StreamWeights


class EdgeWeights(NamedTuple):
    """Weights before and after the blocks."""

    img_in: Tensor
    img_in_bias: Tensor
    txt_norm: Tensor
    txt_in: Tensor
    txt_in_bias: Tensor
    proj_out: Tensor
    proj_out_bias: Tensor

    @property
    def nbytes(self) -> int:
        """Size of all fields in bytes."""
        return sum(weight.nbytes for weight in self)

    @staticmethod
    def shapes(config: TransformerConfig) -> dict[str, tuple[int, ...]]:
        """Returns the shape of each field."""
        d, text = config.width, config.text_features
        return {
            "img_in": (d, config.in_channels),
            "img_in_bias": (d,),
            "txt_norm": (text,),
            "txt_in": (d, text),
            "txt_in_bias": (d,),
            "proj_out": (config.output_features, d),
            "proj_out_bias": (config.output_features,),
        }
