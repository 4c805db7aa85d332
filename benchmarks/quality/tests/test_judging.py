"""Tests of the verdicts on judgements."""

from __future__ import annotations

import torch

from benchmarks.quality import judging
from benchmarks.quality.judge.reading import Judgement, Seen
from training.data import concepts
from training.data.captions import COLOURS
from training.data.prose.description import Description, Subject
from training.data.prose.paints import PAINTS
from training.data.scenes.scene import DAYTIMES, SETTINGS

TABLE = concepts.read()
CAT, DOG = TABLE[0], TABLE[1]
RED = list(PAINTS).index("red")


def judgement(*seen: Seen, setting: str = "snow", light: str = "day", colour: int = 0) -> Judgement:
    scores, places = torch.zeros(len(TABLE)), torch.zeros(len(TABLE), 2)
    for number, one in enumerate(seen):
        scores[one.concept] = max(float(scores[one.concept]), 0.9 - 0.1 * number)
        places[one.concept] = torch.tensor([one.x, one.y])
    at = list(SETTINGS).index(setting) if setting else len(SETTINGS)
    return Judgement(at, list(DAYTIMES).index(light), colour, seen, scores, places)


def seen(concept: int, x: float = 0.5, y: float = 0.5, edge: float = 0.5) -> Seen:
    return Seen(concept, RED, x, y, edge)


def test_subjects() -> None:
    shown = Description((Subject(CAT),))
    assert judging.first(judgement(seen(0)), shown)
    behind = judgement(seen(1), seen(0, x=0.2))
    assert not judging.first(behind, shown) and judging.first_five(behind, shown)
    pair = Description((Subject(CAT), Subject(DOG)))
    assert judging.both(behind, pair)
    assert not judging.both(judgement(seen(0), seen(0, x=0.1)), pair)


def test_ground_and_light() -> None:
    assert judging.scene(judgement(setting="snow"), Description(setting="snow"))
    assert not judging.scene(judgement(setting="sea"), Description(setting="snow"))
    plain = Description(ground=3)
    assert judging.scene(judgement(setting="", colour=3), plain)
    assert not judging.scene(judgement(setting="", colour=len(COLOURS) - 1), plain)
    night = Description(setting="snow", light="night")
    assert judging.light(judgement(light="night"), night)
    assert not judging.light(judgement(), night)


def test_counts() -> None:
    three = Description((Subject(CAT, 3),))
    assert judging.count(judgement(*(seen(0, x=0.2 * n) for n in range(3))), three)
    assert not judging.count(judgement(seen(0), seen(0, x=0.1)), three)


def test_relations() -> None:
    def holds(relation: str, x: float, y: float) -> bool:
        found = judgement(seen(0, x=x, y=y), seen(1))
        pair = (Subject(CAT), Subject(DOG))
        return judging.relation(found, Description(pair, relation=relation))

    left, above = (0.2, 0.55), (0.45, 0.1)
    assert holds("left of", *left) and holds("next to", *left)
    assert not holds("right of", *left) and not holds("above", *left)
    assert holds("above", *above)
    assert not holds("below", *above) and not holds("next to", *above)


def test_colours_and_sizes() -> None:
    small = judgement(seen(0, edge=0.25))
    assert judging.paint(small, Description((Subject(CAT, paint="red"),)))
    assert not judging.paint(small, Description((Subject(CAT, paint="blue"),)))
    assert judging.size(small, Description((Subject(CAT, size="small"),)))
    assert not judging.size(small, Description((Subject(CAT, size="large"),)))


def test_missing_images_are_misses_and_languages_are_compared() -> None:
    shown = Description((Subject(CAT),))
    rows: judging.Judged = [(judgement(seen(0)), shown), (None, shown)]
    assert judging.right(rows, judging.first) == 50
    names = {name for groups, _, _ in judging.FIGURES.values() for name in groups}
    empty: dict[str, judging.Judged] = {name: [] for name in names}
    figures = judging.figures(empty | {"bare": rows}, rows[:1], rows[1:], {"setting": 97.5})
    by_name = {figure.name: figure for figure in figures}
    assert by_name["Chinese behind English"].measured == 100
    assert by_name["Turbo in 4 steps behind the base in 20"].measured == 100
    assert "setting 97.5 %" in by_name["subject recognised, first"].note
    untried = judging.figures(empty | {"bare": rows}, rows[:1], rows[1:], {})
    assert untried[0].note == "the judge itself: not tried"
