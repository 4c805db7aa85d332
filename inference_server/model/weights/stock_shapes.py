"""Compares a stock checkpoint's files with its configs before anything is read or allocated.

A config's numbers size memory and loops, so they must be those of the files: every tensor that will
be read exists in its shape, and there is no further layer.
"""

from __future__ import annotations

from inference_server.errors import ModelError
from inference_server.model import text_encoder, transformer_weights
from inference_server.model.modulation import STREAMS, TIME_FEATURES
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.weights.component_weights import ComponentWeights
from inference_server.model.weights.text_encoder import MAX_VOCABULARY, prefix_in
from inference_server.model.weights.transformer import EDGE_NAMES, IMG, TXT

Shapes = dict[str, tuple[int, ...]]


def check_transformer(config: TransformerConfig, weights: ComponentWeights) -> None:
    """Compares a transformer's files with its config.

    Raises:
        ModelError: they do not fit.
    """
    file = transformer_weights.CONFIG_FILE
    _check_layers(weights, "transformer_blocks", "attn.to_q.weight", config.blocks, file)
    d = config.width
    weights.expect(
        {
            **{EDGE_NAMES[field]: shape for field, shape in EdgeWeights.shapes(config).items()},
            **_linear("norm_out.linear", d, 2 * d),
            **_linear("time_text_embed.timestep_embedder.linear_1", TIME_FEATURES, d),
            **_linear("time_text_embed.timestep_embedder.linear_2", d, d),
        },
        file,
    )
    for index in range(config.blocks):
        weights.expect(_block(config, f"transformer_blocks.{index}"), file)


def check_text_encoder(config: TextConfig, weights: ComponentWeights) -> None:
    """Compares a language model's files with its config.

    Raises:
        ModelError: they do not fit, or there is no language model.
    """
    file, prefix = text_encoder.CONFIG_FILE, prefix_in(weights)
    _check_layers(weights, f"{prefix}layers", "input_layernorm.weight", config.layers, file)
    d, m = config.width, config.mlp_width
    queries, keys = config.heads * config.head_dim, config.kv_heads * config.head_dim
    embedding = f"{prefix}embed_tokens.weight"
    rows = weights.shape(embedding)[0] if weights.shape(embedding) else 0
    if not 0 < rows <= MAX_VOCABULARY:
        raise ModelError(f"{weights.where}: {embedding} has {rows:,} rows")
    weights.expect({embedding: (rows, d), f"{prefix}norm.weight": (d,)}, file)
    for index in range(config.layers):
        path = f"{prefix}layers.{index}"
        weights.expect(
            {
                f"{path}.input_layernorm.weight": (d,),
                f"{path}.post_attention_layernorm.weight": (d,),
                **_linear(f"{path}.self_attn.q_proj", d, queries),
                **_linear(f"{path}.self_attn.k_proj", d, keys),
                **_linear(f"{path}.self_attn.v_proj", d, keys),
                f"{path}.self_attn.o_proj.weight": (d, queries),
                f"{path}.mlp.gate_proj.weight": (m, d),
                f"{path}.mlp.up_proj.weight": (m, d),
                f"{path}.mlp.down_proj.weight": (d, m),
            },
            file,
        )


def _block(config: TransformerConfig, path: str) -> Shapes:
    d, m = config.width, config.mlp_width
    shapes: Shapes = {}
    for names in (IMG, TXT):
        for part in (*names.qkv, names.out):
            shapes |= _linear(f"{path}.{part}", d, d)
        shapes |= _linear(f"{path}.{names.mlp}.net.0.proj", d, m)
        shapes |= _linear(f"{path}.{names.mlp}.net.2", m, d)
        shapes |= {f"{path}.{norm}.weight": (config.head_dim,) for norm in names[1:3]}
    for stream in STREAMS:
        shapes |= _linear(f"{path}.{stream}.1", d, 6 * d)
    return shapes


def _linear(path: str, inside: int, out: int) -> Shapes:
    return {f"{path}.weight": (out, inside), f"{path}.bias": (out,)}


def _check_layers(weights: ComponentWeights, path: str, name: str, layers: int, file: str) -> None:
    """Compares the number of layers in a config with that in the files."""
    held = 0
    while held <= layers and f"{path}.{held}.{name}" in weights:
        held += 1
    if held != layers:
        holds = "more" if held > layers else f"{held:,}"
        raise ModelError(
            f"{weights.where}: {file} announces {layers:,} layers and the files hold {holds}: "
            "they are of different models, or one is damaged"
        )
