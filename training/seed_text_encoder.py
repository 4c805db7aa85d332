"""Builds the embedded model's text encoder: Qwen2.5-VL with two layers, a stub of a vision tower.

Owns the embedding of words. The first dimensions of a word's embedding are its colour and how
much it counts, and both layers leave them alone; the rest is seeded noise, so that any two words
differ. Knows nothing of what the transformer makes of it.
"""

from __future__ import annotations

import torch
from seed_numbers import coarse, fill
from seed_tokenizer import COLOURED_WORDS, SPECIAL_TOKENS, word_ids
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer

HIDDEN = 128
VOCABULARY = 2048
COLOUR = slice(0, 3)
"""Dimensions with a word's red, green and blue, each about -1 to 1."""
SALIENCE = 3
"""Dimension that says how strongly a word attracts the picture's attention, -1 to 1."""
MEANING = slice(8, HIDDEN)
"""Dimensions with seeded noise; 4 to 7 stay empty."""

COLOUR_GAIN = 2.0
SALIENCE_GAIN = 1.5
UPDATE_GAIN = 0.35
"""How much a layer changes its input: context colours a word, it does not drown it."""


def _config(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLConfig:
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": HIDDEN,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1000000.0,
                "mrope_section": [4, 6, 6],
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
    return config


def _embeddings(tokenizer: Qwen2Tokenizer, generator: torch.Generator) -> torch.Tensor:
    """[VOCABULARY, HIDDEN]: colour, salience and seeded meaning of each token."""
    table = torch.zeros(VOCABULARY, HIDDEN)
    table[:, MEANING] = coarse(generator, VOCABULARY, HIDDEN - MEANING.start, std=1.0)
    # A word without a colour of its own gets a faint one, so that it still counts a little.
    table[:, COLOUR] = coarse(generator, VOCABULARY, 3, std=0.3 * COLOUR_GAIN)
    table[:, SALIENCE] = -0.5 * SALIENCE_GAIN
    for colour, words in COLOURED_WORDS.items():
        rgb = torch.tensor([int(colour[n : n + 2], 16) / 127.5 - 1.0 for n in (1, 3, 5)])
        for word in words.split():
            for token in word_ids(tokenizer, word):
                table[token, COLOUR] = COLOUR_GAIN * rgb
                table[token, SALIENCE] = SALIENCE_GAIN
    for word in (*SPECIAL_TOKENS, "\n", "system", "user", "assistant"):
        table[word_ids(tokenizer, word), SALIENCE] = -SALIENCE_GAIN
    return table


def build_text_encoder(tokenizer: Qwen2Tokenizer, seed: int) -> Qwen2_5_VLForConditionalGeneration:
    """The text encoder, fp32, with weights that depend on the tokenizer and the seed alone."""
    generator = torch.Generator().manual_seed(seed)
    model = Qwen2_5_VLForConditionalGeneration(_config(tokenizer))
    fill(model, generator)
    language = model.model.language_model
    language.embed_tokens.weight.data.copy_(_embeddings(tokenizer, generator))
    for layer in language.layers:
        for projection in (layer.self_attn.o_proj, layer.mlp.down_proj):
            projection.weight.data.mul_(UPDATE_GAIN)
            projection.weight.data[: MEANING.start] = 0.0
    return model.eval()
