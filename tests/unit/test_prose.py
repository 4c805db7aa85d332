"""Captions in people's own words tell the description, and nothing else."""

from __future__ import annotations

import random

import pytest

from training.data.prose import lexicon, templates
from training.data.prose.description import Description
from training.data.prose.drawing import draw
from training.data.prose.writing import write

ENTRIES = lexicon.read()


@pytest.mark.parametrize("language", ("en", "zh"))
def test_equal_states_give_equal_captions(language: str) -> None:
    def captions(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [write(draw(rng, ENTRIES), language, rng) for _ in range(300)]

    assert captions(5) == captions(5)
    assert captions(5) != captions(6)


@pytest.mark.parametrize("language", ("en", "zh"))
def test_held_out_templates_are_no_templates_of_training(language: str) -> None:
    training = templates.lists(language, held_out=False)
    held_out = templates.lists(language, held_out=True)
    assert set(training) == set(held_out)
    table = templates.read(language)
    for name, texts in training.items():
        assert texts and held_out[name]
        shared = set(texts) & set(held_out[name])
        assert not shared or len(table.get(name, texts)) < templates.HELD_OUT_EVERY, name


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        write(Description(), "fr", random.Random(0))
