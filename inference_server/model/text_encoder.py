"""The language model of Qwen2.5-VL as far as a prompt needs it.

Owns the decoder layers and the final norm; the vision tower and the output head are never read
from disk, and no logits are computed. Knows nothing of templates or caches. For text alone the
model's three-axis rotary positions coincide, so the plain rotary embedding is exact. Source of the
arithmetic: transformers `modeling_qwen2_5_vl.py`, 5.x.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.errors import ModelError
from inference_server.model.offload.layers import Layers, Streaming, load_layers
from inference_server.model.offload.pinned_memory import sent
from inference_server.model.weights import packing
from inference_server.model.weights.checkpoint import WeightFiles
from inference_server.model.weights.config_values import ConfigValues
from inference_server.model.weights.packing import Field, Fields

PREFIXES = ("model.language_model.", "model.", "language_model.model.", "language_model.")
"""Where the language model stands in the checkpoint; differs by the version that saved it."""

CONFIG_FILE = "text_encoder/config.json"
MAX_VOCABULARY = 1 << 20
"""Rows of the embedding; Qwen2.5 has 152,064."""


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
        """Features of a head."""
        return self.width // self.heads

    @classmethod
    def from_json(cls, config: dict[str, Any]) -> TextConfig:
        """From the component's config.json, flat (transformers 4) or nested (transformers 5).

        Raises:
            ModelError: a value is missing or makes no sense.
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
    """One decoder layer."""

    input_norm: Tensor
    qkv: Tensor
    """[(heads + 2 kv_heads) * head_dim, width]"""
    qkv_bias: Tensor
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    """[2 * intermediate, width]"""
    down: Tensor


def layer_fields(config: TextConfig, dtype: torch.dtype) -> Fields:
    """Every tensor of a layer's flat buffer."""
    d, m = config.width, config.mlp_width
    qkv = (config.heads + 2 * config.kv_heads) * config.head_dim
    shapes = {
        "input_norm": (d,),
        "qkv": (qkv, d),
        "qkv_bias": (qkv,),
        "out": (d, config.heads * config.head_dim),
        "post_norm": (d,),
        "gate_up": (2 * m, d),
        "down": (d, m),
    }
    return {name: Field(shape, dtype) for name, shape in shapes.items()}


def layer_views(fields: Fields, buffer: Tensor) -> LayerWeights:
    """A layer's weights as views into its flat buffer."""
    return LayerWeights(**packing.views(fields, buffer))


def _layer_sources(n: int) -> dict[str, list[str]]:
    """Field of `LayerWeights` -> the tensors stacked in it."""
    path = f"layers.{n}"
    attn, mlp = f"{path}.self_attn", f"{path}.mlp"
    return {
        "input_norm": [f"{path}.input_layernorm.weight"],
        "qkv": [f"{attn}.{x}_proj.weight" for x in "qkv"],
        "qkv_bias": [f"{attn}.{x}_proj.bias" for x in "qkv"],
        "out": [f"{attn}.o_proj.weight"],
        "post_norm": [f"{path}.post_attention_layernorm.weight"],
        "gate_up": [f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"],
        "down": [f"{mlp}.down_proj.weight"],
    }


def _rotate_half(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def reader(weights: WeightFiles) -> Callable[[str], Tensor]:
    """Reads the language model's tensors by their own names, wherever the checkpoint has them.

    Raises:
        ModelError: there is no language model.
    """
    prefix = prefix_in(weights)
    return lambda name: weights.read(prefix + name)


def prefix_in(weights: WeightFiles) -> str:
    """What stands before the names of the language model's tensors.

    Raises:
        ModelError: there is no language model.
    """
    prefix = next((p for p in PREFIXES if f"{p}embed_tokens.weight" in weights), None)
    if prefix is None:
        raise ModelError(f"{weights.folder} holds no Qwen2.5-VL language model")
    return prefix


def fill_layer(layer: LayerWeights, n: int, read: Callable[[str], Tensor]) -> None:
    """Reads layer `n` of a checkpoint into the views; `read` knows the prefix."""
    for field, names in _layer_sources(n).items():
        getattr(layer, field).copy_(torch.cat([read(name) for name in names]))


class TextEncoder:
    """Token ids in, the last hidden state (after the final norm) out.

    The embedding stays in host memory: a prompt reads a few hundred of its 152,064 rows.

    Args:
        config: its shape.
        embedding: [vocabulary, width] on the CPU.
        final_norm: [width], where it computes.
        layers: wherever they lie.
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
        """Encodes one unpadded prompt, pausing after each layer for other work in between.

        Returns:
            [tokens, width] in the model's dtype.
        """
        c = self.config
        x = sent(self._embedding[torch.tensor(ids)], self._device)
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
        dim = self.config.head_dim
        exponents = torch.arange(0, dim, 2, dtype=torch.float32) / dim
        angles = torch.outer(torch.arange(tokens).float(), self.config.rope_theta**-exponents)
        angles = sent(torch.cat((angles, angles), dim=-1), self._device)
        return angles.cos().to(self._dtype), angles.sin().to(self._dtype)


def load_text_encoder(
    config: TextConfig,
    embedding: Tensor,
    final_norm: Tensor,
    fill: Callable[[int, Tensor], None],
    device: torch.device,
    dtype: torch.dtype,
    streaming: Streaming | None = None,
) -> TextEncoder:
    """The text encoder, its layers on the device or where `streaming` keeps them.

    `fill` reads layer `index` into its flat buffer; embedding and norm may lie anywhere.
    """
    fields = layer_fields(config, dtype)
    view, nbytes = partial(layer_views, fields), packing.nbytes(fields)
    return TextEncoder(
        config,
        embedding.to(dtype),
        final_norm.to(device=device, dtype=dtype),
        load_layers(config.layers, nbytes, view, fill, device, streaming),
    )
