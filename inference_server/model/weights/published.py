"""The configs, tokenizer and schedule that Qwen-Image was published with.

They stand in for those that a single weight file lacks. Sizes are those of the file, so a model
with fewer layers is read as what it is.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from inference_server.model import text_encoder, transformer_weights, vae
from inference_server.model.config_values import ConfigValues
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.text_encoder import prefix_in

FOLDER: Final = Path(__file__).parents[2] / "published"
"""In diffusers layout, without weights. Vocabulary and merges are Qwen2.5's (Apache-2.0)."""

MAX_LAYERS: Final = 256


def sized(component: str, config: dict[str, Any], weights: ComponentWeights) -> dict[str, Any]:
    """Returns a component's config with the sizes that its file has.

    Raises:
        ModelError: the file lacks a tensor that every Qwen-Image has, or a size is senseless.
    """
    return config | _SIZES[component](config, weights)


def _transformer(config: dict[str, Any], weights: ComponentWeights) -> dict[str, Any]:
    values = ConfigValues(transformer_weights.CONFIG_FILE, config)
    width, channels = _matrix(weights, "img_in.weight")
    head_dim = weights.shape("transformer_blocks.0.attn.norm_q.weight")
    patch = values.integer("patch_size", 2, most=16)
    return {
        "num_layers": _layers(weights, "transformer_blocks.{}.attn.to_q.weight"),
        "num_attention_heads": width // max(1, *head_dim),
        "attention_head_dim": max(1, *head_dim),
        "in_channels": channels,
        "out_channels": _matrix(weights, "proj_out.weight")[0] // patch**2,
        "joint_attention_dim": _matrix(weights, "txt_in.weight")[1],
    }


def _text_encoder(config: dict[str, Any], weights: ComponentWeights) -> dict[str, Any]:
    top = ConfigValues(text_encoder.CONFIG_FILE, config)
    values = top.table("text_config") or top  # nested since transformers 5
    head_dim = max(
        1,
        values.integer("hidden_size", most=16_384)
        // values.integer("num_attention_heads", most=1024),
    )
    path = f"{prefix_in(weights)}layers"
    keys, width = _matrix(weights, f"{path}.0.self_attn.k_proj.weight")
    sizes = {
        "num_hidden_layers": _layers(weights, path + ".{}.input_layernorm.weight"),
        "hidden_size": width,
        "num_attention_heads": width // head_dim,
        "num_key_value_heads": keys // head_dim,
        "intermediate_size": _matrix(weights, f"{path}.0.mlp.up_proj.weight")[0],
    }
    return sizes if values is top else {"text_config": config["text_config"] | sizes}


def _vae(config: dict[str, Any], weights: ComponentWeights) -> dict[str, Any]:
    multiples = ConfigValues(vae.CONFIG_FILE, config).integers("dim_mult", most=64)
    finest = weights.shape("decoder.norm_out.gamma")
    return {"base_dim": max(1, *finest) // (multiples or [1])[0]}


_SIZES: Final[dict[str, Callable[[dict[str, Any], ComponentWeights], dict[str, Any]]]] = {
    "transformer": _transformer,
    "text_encoder": _text_encoder,
    "vae": _vae,
}


def _matrix(weights: ComponentWeights, name: str) -> tuple[int, int]:
    """Returns the shape of a matrix; zeros for a tensor that is none, which no config accepts."""
    shape = weights.shape(name)
    return (shape[0], shape[1]) if len(shape) == 2 else (0, 0)


def _layers(weights: ComponentWeights, pattern: str) -> int:
    """Counts layers, up to one more than is accepted."""
    return next(
        n for n in range(MAX_LAYERS + 2) if pattern.format(n) not in weights or n > MAX_LAYERS
    )
