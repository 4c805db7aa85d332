"""The language model of Qwen2.5-VL: decoder layers and final norm.

There is no vision tower and no output head. For text alone the model's three-axis rotary positions
coincide, so the plain rotary embedding is exact. Source of the arithmetic: transformers
`modeling_qwen2_5_vl.py`, 5.x.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from inference_server.model.host_to_device import copy_to_device
from inference_server.model.offload.layers import Layers

CONFIG_FILE = "text_encoder/config.json"


@dataclass(frozen=True, slots=True)
class TextConfig:
    """Shape of the language model."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    mlp_width: int
    rope_theta: float
    eps: float

    @property
    def head_dim(self) -> int:
        """Features of one head."""
        return self.width // self.heads

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> TextConfig:
        """Parses the component's config.json, flat (transformers 4) or nested (transformers 5).

        Raises:
            ModelError: a value is missing or out of range.
        """
        values = ConfigValues(CONFIG_FILE, config)
        values = values.table("text_config") or values
        rope = values.table("rope_parameters") or values.table("rope_scaling")
        theta = values if values.has("rope_theta") or rope is None else rope
        width = values.integer("hidden_size", most=16_384)
        heads = values.integer("num_attention_heads", most=1024)
        kv_heads = values.integer("num_key_value_heads", most=1024)
        if width % heads or width // heads % 2 or heads % kv_heads:
            raise ModelError(
                f"{values.file}: {heads} heads with keys and values of {kv_heads} do not divide "
                f"a width of {width} into heads of even size"
            )
        return cls(
            layers=values.integer("num_hidden_layers", most=256),
            width=width,
            heads=heads,
            kv_heads=kv_heads,
            mlp_width=values.integer("intermediate_size", most=131_072),
            rope_theta=theta.number("rope_theta", least=1.0, most=1e12),
            eps=values.number("rms_norm_eps", least=0.0, most=1.0),
        )


class LayerWeights(NamedTuple):
    """Weights of one decoder layer; D width, E head_dim, M mlp_width."""

    input_norm: Tensor
    """[D]"""
    qkv: Tensor
    """[(heads + 2 kv_heads) * E, D]"""
    qkv_bias: Tensor
    """[(heads + 2 kv_heads) * E]"""
    out: Tensor
    """[D, heads * E]"""
    post_norm: Tensor
    """[D]"""
    gate_up: Tensor
    """[2 M, D]"""
    down: Tensor
    """[D, M]"""


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


class TextEncoder:
    """Computes the last hidden state, after the final norm, of token ids.

    The embedding stays in host memory: a prompt reads a few hundred of its 152,064 rows.

    Args:
        config: its shape.
        embedding: [vocabulary, width] on the CPU, in the model's dtype.
        final_norm: [width], on the device and in the model's dtype.
        layers: the layers' weights, resident or streamed.
    """

    def __init__(
        self,
        config: TextConfig,
        embedding: Tensor,
        final_norm: Tensor,
        layers: Layers[LayerWeights],
    ) -> None:
        self.config = config
        self.layers = layers
        self._embedding = embedding
        self._final_norm = final_norm
        self._device, self._dtype = final_norm.device, final_norm.dtype

    def layer_by_layer(self, ids: Sequence[int]) -> Generator[None, None, Tensor]:
        """Encodes one unpadded prompt; yields after each layer, so that other work can run.

        Returns:
            [tokens, width] in the model's dtype.
        """
        c = self.config
        x = copy_to_device(self._embedding[torch.tensor(ids)], self._device)
        cos, sin = self._rotation(len(ids))
        for w in self.layers:
            h = F.rms_norm(x, (c.width,), w.input_norm, c.eps)
            qkv = F.linear(h, w.qkv, w.qkv_bias).unflatten(-1, (-1, c.head_dim)).transpose(0, 1)
            q, k, v = qkv.split((c.heads, c.kv_heads, c.kv_heads))
            attended = F.scaled_dot_product_attention(
                _rotate_half(q, cos, sin)[None],
                _rotate_half(k, cos, sin)[None],
                v[None],
                is_causal=True,
                enable_gqa=c.heads != c.kv_heads,
            )
            x = x + F.linear(attended[0].transpose(0, 1).flatten(1), w.out)
            h = F.rms_norm(x, (c.width,), w.post_norm, c.eps)
            gate, up = F.linear(h, w.gate_up).chunk(2, dim=-1)
            x = x + F.linear(F.silu(gate) * up, w.down)
            yield
        return F.rms_norm(x, (c.width,), self._final_norm, c.eps)

    def _rotation(self, tokens: int) -> tuple[Tensor, Tensor]:
        """Returns cosines and sines, each [tokens, head_dim], in the model's dtype."""
        dim = self.config.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        angles = torch.outer(torch.arange(tokens).float(), self.config.rope_theta**-exponents)
        angles = copy_to_device(torch.cat((angles, angles), dim=-1), self._device)
        return angles.cos().to(self._dtype), angles.sin().to(self._dtype)
