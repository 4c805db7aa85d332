"""Builds the text encoder from a checkpoint: tensor names, flat buffers, q, k, v stacked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from inference_server.errors import ModelError
from inference_server.model.offload.layers import Streaming, load_layers
from inference_server.model.text_encoder import LayerWeights, TextConfig, TextEncoder
from inference_server.model.weights import packing
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.packing import Field, Fields

PREFIXES = ("model.language_model.", "model.", "language_model.model.", "language_model.")
"""Prefixes of the language model's tensor names, by the version of transformers that saved it."""

MAX_VOCABULARY = 1 << 20
"""Most rows of the embedding that are accepted; Qwen2.5 has 152,064."""


def layer_fields(config: TextConfig, dtype: torch.dtype) -> Fields:
    """Returns the tensors of a layer's flat buffer, by field of `LayerWeights`."""
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
    """Returns a layer's weights as views into its flat buffer."""
    return LayerWeights(**packing.views(fields, buffer))


def _layer_sources(n: int) -> dict[str, list[str]]:
    """Returns, by field of `LayerWeights`, the checkpoint's tensors stacked in it."""
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


def reader(weights: ComponentWeights) -> Callable[[str], Tensor]:
    """Returns a function that reads the language model's tensors by their names without prefix.

    Raises:
        ModelError: the checkpoint holds no language model.
    """
    prefix = prefix_in(weights)
    return lambda name: weights.read(prefix + name)


def prefix_in(weights: ComponentWeights) -> str:
    """Returns the checkpoint's prefix of the language model's tensor names.

    Raises:
        ModelError: the checkpoint holds no language model.
    """
    prefix = next((p for p in PREFIXES if f"{p}embed_tokens.weight" in weights), None)
    if prefix is None:
        raise ModelError(f"{weights.where} holds no Qwen2.5-VL language model")
    return prefix


def fill_layer(layer: LayerWeights, n: int, read: Callable[[str], Tensor]) -> None:
    """Reads layer `n` of a checkpoint into the views, with a `read` from `reader`."""
    for field, names in _layer_sources(n).items():
        getattr(layer, field).copy_(torch.cat([read(name) for name in names]))


def load_text_encoder(
    config: TextConfig,
    embedding: Tensor,
    final_norm: Tensor,
    *,
    fill: Callable[[int, Tensor], None],
    device: torch.device,
    dtype: torch.dtype,
    streaming: Streaming | None = None,
) -> TextEncoder:
    """Builds the text encoder.

    Args:
        config: its shape.
        embedding: [vocabulary, width], on any device, in any dtype.
        final_norm: [width], on any device, in any dtype.
        fill: reads layer `index` into its flat buffer.
        device: the device.
        dtype: of weights and activations.
        streaming: layers to keep in host memory; None keeps all on the device.
    """
    fields = layer_fields(config, dtype)
    view, nbytes = partial(layer_views, fields), packing.nbytes(fields)
    return TextEncoder(
        config,
        embedding.to(dtype),
        final_norm.to(device=device, dtype=dtype),
        load_layers(config.layers, nbytes, view, fill=fill, device=device, streaming=streaming),
    )
