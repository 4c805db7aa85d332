"""Trains the embedded model's tokenizer on the captions: `python -m training.tokenizer`.

Byte-level BPE in the format of Qwen2, with Qwen-Image's prompt template.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Final

from tokenizers import Tokenizer, models, trainers
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer

from training.data.captions import LANGUAGES
from training.data.prose import drawing, lexicon, writing
from training.data.prose.lexicon import Entry
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

LARGEST: Final = 8192
"""Maximum size of the vocabulary, including special tokens."""

CAPTIONS: Final = 120_000
"""Captions in the corpus, half of them Chinese."""

REPEATS: Final = 3
"""Occurrences of each word of the lexicon; also the trainer's minimum frequency of a merge."""


def _corpus(entries: list[Entry]) -> Iterator[str]:
    """Yields captions, words in all positions of a prompt, and the template."""
    rng = random.Random(0)
    for number in range(CAPTIONS):
        description = drawing.draw(rng, entries)
        yield writing.write(description, LANGUAGES[number % 2], rng)
    words = {word for entry in entries for word in entry.english + entry.chinese}
    words |= {phrase for style in STYLES for phrase in style.triggers}
    for word in sorted(words):
        # At the start of a prompt, after a space, or (Chinese) between other words.
        yield from [word, f" {word}", word.capitalize()] * REPEATS
    template = TEMPLATE
    for special in SPECIAL_TOKENS:
        template = template.replace(special, " ")
    for word in template.replace("{}", "").replace(",", " ").replace(":", " ").split():
        yield from [word, f" {word}"] * 40 * REPEATS


def build_tokenizer(entries: list[Entry]) -> Qwen2Tokenizer:
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
    trained.train_from_iterator(_corpus(entries), trainer)

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
    build_tokenizer(lexicon.read()).save_pretrained(".run/training/made/base/tokenizer")
