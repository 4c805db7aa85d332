"""The fixed prompts of the quality benchmark: their concepts, colours, seeds, and wording.

A smaller number of prompts is a prefix of a larger one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from training.data.captions import COLOURS, with_article
from training.data.concepts import Concept

SEED = 20240521
ONE_PROMPT = ("fox", "light blue")
"""Generated from ten seeds; the fox's rendering is exactly centred."""
TEN = 10


@dataclass(frozen=True, slots=True)
class Prompt:
    """One image to request, in both languages."""

    concept: int
    """Index in the table of concepts."""
    colour: int
    """Index in COLOURS."""
    seed: int
    english: str
    chinese: str


def choose(concepts: Sequence[Concept], count: int) -> list[Prompt]:
    """Returns `count` prompts of distinct random concepts, cycling through the colours."""
    rng = random.Random(SEED)
    order = rng.sample(range(len(concepts)), len(concepts))
    return [
        _prompt(concepts, concept, place % len(COLOURS), rng.randrange(2**32))
        for place, concept in enumerate(order[:count])
    ]


def ten_seeds(concepts: Sequence[Concept]) -> list[Prompt]:
    """Returns one prompt with ten seeds."""
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
