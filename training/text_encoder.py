"""The embedded model's text encoder: Qwen2.5-VL with four narrow layers and a minimal vision tower.

It is trained together with the transformer, from scratch.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

from training.tokenizer import SPECIAL_TOKENS, TEMPLATE, TEMPLATE_TOKENS

HIDDEN = 256


def config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    """Returns the text encoder's shape; the vocabulary is rounded up to a multiple of 64."""
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    return Qwen2_5_VLConfig(
        text_config={
            "vocab_size": (len(tokenizer) + 63) // 64 * 64,
            "hidden_size": HIDDEN,
            "intermediate_size": 640,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [8, 12, 12],
            },
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 1,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "fullatt_block_indexes": [0],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )


def build_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    """Returns the untrained text encoder, fp32, initialised from torch's current seed."""
    model = Qwen2_5_VLForConditionalGeneration(config(tokenizer))
    # With the usual std of 0.02, attention takes long to tell words apart.
    nn.init.normal_(model.model.language_model.embed_tokens.weight, std=0.3)
    return model


def tokenize(tokenizer: Qwen2Tokenizer, captions: Sequence[str]) -> list[list[int]]:
    """Returns the ids of captions in the template, including its prefix."""
    ids: list[list[int]] = tokenizer([TEMPLATE.format(text) for text in captions])["input_ids"]
    return ids


def encode(model: Qwen2_5_VLForConditionalGeneration, ids: Tensor) -> Tensor:
    """Returns states [N, length, HIDDEN] after the last norm, without the template's prefix."""
    states = model.model.language_model(input_ids=ids, use_cache=False).last_hidden_state
    return states[:, TEMPLATE_TOKENS:]
