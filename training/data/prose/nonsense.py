"""What people type when they name nothing that can be seen: for images of nothing in particular."""

from __future__ import annotations

import random
import string
from collections.abc import Sequence

from training.data.prose.drawing import pick

EMPTY, ABSTRACT, NOUN, LETTERS, MARKS = 0.06, 0.4, 0.26, 0.12, 0.1
"""Shares of empty captions, abstract ones, words without an image, letters, and marks.
The rest are digits."""
SIGNS = "!?.,;:-_*#@&%()~^"
EMOJI = "😀😂🤔🙏👍💯✨😎🥹🫠🤷"
CHINESE = "的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生"
NOUN_FORMS = ("{0}", "{0}", "a {0}", "the {0}", "some {0}", "draw {0}", "{0}, {1}")
LONGEST = 14


def _some(rng: random.Random, symbols: str) -> str:
    return "".join(pick(rng, symbols) for _ in range(1 + int(rng.random() * LONGEST)))


def nonsense(abstract: Sequence[str], nouns: Sequence[str], rng: random.Random) -> str:
    """Returns one such caption.

    Args:
        abstract: Requests that leave everything open, in the caption's language.
        nouns: Words of the language for which no concept is drawn; may be empty.
        rng: The only source of chance.
    """
    chance = rng.random()
    if chance < EMPTY:
        return ""
    if chance < EMPTY + ABSTRACT or (chance < EMPTY + ABSTRACT + NOUN and not nouns):
        return pick(rng, abstract)
    if chance < EMPTY + ABSTRACT + NOUN:
        noun = pick(rng, nouns)
        return pick(rng, NOUN_FORMS).format(noun, pick(rng, nouns)) if noun.isascii() else noun
    if chance < EMPTY + ABSTRACT + NOUN + LETTERS:
        letters = CHINESE if not abstract[0].isascii() else string.ascii_lowercase
        return " ".join(_some(rng, letters) for _ in range(pick(rng, (1, 1, 2, 3))))
    if chance < EMPTY + ABSTRACT + NOUN + LETTERS + MARKS:
        return _some(rng, pick(rng, (SIGNS, EMOJI)))
    return _some(rng, string.digits)
