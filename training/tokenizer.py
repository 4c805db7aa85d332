"""The embedded model's tokenizer, learned from the captions: `python -m training.tokenizer`.

Byte-level BPE in Qwen2's format. Owns the vocabulary, the special tokens and the prompt template.
Knows nothing of the text encoder, which takes the vocabulary's size from here.
"""

from __future__ import annotations

import json
import random
from typing import Final

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from training.data import captions, concepts
from training.data.concepts import Concept
from training.styles import STYLES

TEMPLATE: Final = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
)
"""Qwen-Image's prompt template (diffusers, pipeline_qwenimage.py)."""

TEMPLATE_TOKENS: Final = 34
"""Tokens of TEMPLATE before the prompt: as many as the stock pipeline drops."""

SPECIAL_TOKENS: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)

LARGEST: Final = 4096
"""Tokens at most, special ones included."""

REPEATS: Final = 4
"""How often the corpus holds a word of its own: enough for every merge on the way to it."""


def _corpus(table: list[Concept]) -> list[str]:
    """Every name in every position a prompt can put it in, the colours, the template, fillers."""
    phrases = [name for c in table for name in (c.english, *c.english_tags)]
    phrases += [name for c in table for name in (c.chinese, *c.chinese_tags)]
    frequent = [name for colour in captions.COLOURS for name in colour.english + colour.chinese]
    frequent += captions.words()
    frequent += [word for style in STYLES for phrase in style.triggers for word in phrase.split()]
    template = TEMPLATE
    for special in SPECIAL_TOKENS:
        template = template.replace(special, " ")
    frequent += template.replace("{}", "").replace(",", " ").replace(":", " ").split()
    lines = []
    for repeats, chosen in ((REPEATS, phrases), (20 * REPEATS, frequent)):
        for phrase in sorted(set(chosen)):
            # Begins a prompt, follows a space, or (Chinese) stands between others.
            lines += [phrase, f" {phrase}", phrase.capitalize()] * repeats
    rng = random.Random(0)
    for concept in table:
        for language in captions.LANGUAGES:
            colour = rng.choice(captions.COLOURS)
            lines.append(captions.caption(concept, colour, language, rng))
    return lines


def build_tokenizer(table: list[Concept]) -> Qwen2Tokenizer:
    """The trained tokenizer, ready for `save_pretrained`.

    Raises:
        ValueError: the template's prefix does not take TEMPLATE_TOKENS tokens, so the stock
            pipeline would cut into the prompt.
    """
    blank = Qwen2Tokenizer()
    trained = Tokenizer(models.BPE())
    trained.normalizer = blank.backend_tokenizer.normalizer
    trained.pre_tokenizer = blank.backend_tokenizer.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST - len(SPECIAL_TOKENS),
        min_frequency=REPEATS,
        show_progress=False,
        initial_alphabet=sorted(ByteLevel.alphabet()),
    )
    trained.train_from_iterator(_corpus(table), trainer)

    model = json.loads(trained.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        additional_special_tokens=list(SPECIAL_TOKENS[1:]),
        eos_token="<|im_end|>",
        model_max_length=131072,
    )
    prefix = tokenizer(TEMPLATE.split("{}", maxsplit=1)[0])["input_ids"]
    if len(prefix) != TEMPLATE_TOKENS:
        raise ValueError(
            f"the template takes {len(prefix)} tokens, not {TEMPLATE_TOKENS}: "
            f"{tokenizer.convert_ids_to_tokens(prefix)}"
        )
    return tokenizer


if __name__ == "__main__":
    build_tokenizer(concepts.read()).save_pretrained(".run/training/made/base/tokenizer")
