"""Trains the embedded model's tokenizer on the captions: `python -m training.tokenizer`.

Byte-level BPE in the format of Qwen2, with Qwen-Image's prompt template.
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
"""Tokens of TEMPLATE before the prompt; the stock pipeline drops exactly this many."""

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
"""Maximum size of the vocabulary, including special tokens."""

REPEATS: Final = 4
"""Occurrences of each word in the corpus; also the trainer's minimum frequency of a merge."""


def _corpus(table: list[Concept]) -> list[str]:
    """Returns names in all positions of a prompt, colours, template, filler words, captions."""
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
            # At the start of a prompt, after a space, or (Chinese) between other words.
            lines += [phrase, f" {phrase}", phrase.capitalize()] * repeats
    rng = random.Random(0)
    for concept in table:
        for language in captions.LANGUAGES:
            colour = rng.choice(captions.COLOURS)
            lines.append(captions.caption(concept, colour, language, rng))
    return lines


def build_tokenizer(table: list[Concept]) -> Qwen2Tokenizer:
    """Trains the tokenizer.

    Raises:
        ValueError: The template's prefix does not take TEMPLATE_TOKENS tokens, so the stock
            pipeline would drop the wrong ones.
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
