"""The prompts that quality is measured with.

Owns which concepts, colours and seeds they name and how they are worded. Knows nothing of
images. Everything is fixed: fewer prompts are the beginning of more.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from training.data.captions import COLOURS, with_article
from training.data.concepts import Concept

SEED = 20240521
ONE_PROMPT = ("fox", "light blue")
"""Generated from ten seeds; the fox's own generating lies exactly in the middle."""
TEN = 10


@dataclass(frozen=True, slots=True)
class Prompt:
    """One image to ask for, in both languages."""

    concept: int
    """Place in the table of concepts."""
    colour: int
    """Place in COLOURS."""
    seed: int
    english: str
    chinese: str


def choose(concepts: Sequence[Concept], count: int) -> list[Prompt]:
    """`count` prompts of distinct concepts from all over the table, all colours in turn."""
    rng = random.Random(SEED)
    order = rng.sample(range(len(concepts)), len(concepts))
    return [
        _prompt(concepts, concept, place % len(COLOURS), rng.randrange(2**32))
        for place, concept in enumerate(order[:count])
    ]


def ten_seeds(concepts: Sequence[Concept]) -> list[Prompt]:
    """One prompt with ten seeds."""
    names = [c.english for c in concepts]
    colours = [c.english[0] for c in COLOURS]
    concept, colour = names.index(ONE_PROMPT[0]), colours.index(ONE_PROMPT[1])
    return [_prompt(concepts, concept, colour, seed) for seed in range(1, TEN + 1)]


def _prompt(concepts: Sequence[Concept], concept: int, colour: int, seed: int) -> Prompt:
    thing, ground = concepts[concept], COLOURS[colour]
    name = with_article(thing.english, thing.kind)
    shade = with_article(ground.english[0], "one")
    return Prompt(
        concept,
        colour,
        seed,
        f"{name} on {shade} background",
        f"{ground.chinese[0]}背景上的{thing.chinese}",
    )
