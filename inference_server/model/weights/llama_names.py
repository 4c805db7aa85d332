"""Names of llama.cpp's files of Qwen2.5-VL in the terms of transformers' checkpoint."""

from __future__ import annotations

import re
from typing import Final

SIGN: Final = "token_embd.weight"
"""A tensor that only files with these names hold."""

_EDGES: Final = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
}
_LAYERS: Final = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_LAYER: Final = re.compile(r"blk\.(\d{1,4})\.(\w+)\.(weight|bias)")


def transformers_name(name: str) -> str | None:
    """Returns the name of a tensor in transformers' checkpoint; None for what is not read."""
    if (match := _LAYER.fullmatch(name)) and match[2] in _LAYERS:
        return f"model.layers.{match[1]}.{_LAYERS[match[2]]}.{match[3]}"
    return _EDGES.get(name)
