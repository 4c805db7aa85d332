"""The training distribution of descriptions: what images show, before they are put into words."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from training.data.captions import COLOURS
from training.data.prose.description import SUBJECT_SIZES, Description, Subject
from training.data.prose.paints import PAINTS
from training.data.scenes import SETTINGS
from training.data.scenes.anchors import MAX_SUBJECTS, RELATIONS, SIDES
from training.data.scenes.scene import DAYTIMES

if TYPE_CHECKING:
    from training.data.prose.lexicon import Entry

T = TypeVar("T")

ONE, SEVERAL, TWO, SCENE = 0.55, 0.13, 0.21, 0.08
"""Shares of descriptions with one subject, equal ones, two different ones, and none but a scene.
The rest shows nothing at all."""
RELATION_SHARE = 0.65
SIZE_SHARE = 0.15
SIDE_SHARE = 0.08
PAINT_SHARE = 0.45

IN_SETTING, ON_GROUND, IN_LIGHT = 0.45, 0.25, 0.05
"""Shares of descriptions with subjects that state a setting, a plain ground, or only a light."""
LIGHT_SHARE = 0.5
"""Share of settings with several lights whose light is stated."""
SCENE_GROUND, SCENE_LIGHT = 0.07, 0.08
"""Shares of scenes without subjects that are a plain ground, or only a light."""

_SETTINGS = tuple((name, tuple(entry.lights)) for name, entry in SETTINGS.items())
_LIGHTS = tuple(DAYTIMES)
_PAINTS = tuple(PAINTS)
_SIDES = tuple(SIDES)


def pick(rng: random.Random, choices: Sequence[T]) -> T:
    """Returns one of the choices; three times as fast as `rng.choice`."""
    return choices[int(rng.random() * len(choices))]


def draw(rng: random.Random, entries: Sequence[Entry]) -> Description:
    """Returns one description.

    Args:
        rng: The only source of chance; equal states give equal descriptions.
        entries: The lexicon.
    """
    chance = rng.random()
    subjects: tuple[Subject, ...]
    relation = None
    if chance < ONE:
        subjects = (_single(rng, pick(rng, entries)),)
    elif chance < ONE + SEVERAL:
        subjects = (_several(rng, entries),)
    elif chance < ONE + SEVERAL + TWO:
        subjects = _pair(rng, entries)
        relation = pick(rng, RELATIONS) if rng.random() < RELATION_SHARE else None
    elif chance < ONE + SEVERAL + TWO + SCENE:
        return _scene(rng)
    else:
        return Description()
    side = pick(rng, _SIDES) if chance < ONE and rng.random() < SIDE_SHARE else None
    where = rng.random()
    setting, light, ground = None, None, None
    if where < IN_SETTING:
        setting, light = _setting(rng)
    elif where < IN_SETTING + ON_GROUND:
        ground = _ground(rng, subjects)
    elif where < IN_SETTING + ON_GROUND + IN_LIGHT:
        light = pick(rng, _LIGHTS)
    return Description(subjects, relation, side, setting, light, ground)


def _paint(rng: random.Random, entry: Entry) -> str | None:
    return pick(rng, _PAINTS) if entry.paintable and rng.random() < PAINT_SHARE else None


def _single(rng: random.Random, entry: Entry) -> Subject:
    size = pick(rng, SUBJECT_SIZES) if rng.random() < SIZE_SHARE else None
    return Subject(entry.concept, 1, size, _paint(rng, entry))


def _several(rng: random.Random, entries: Sequence[Entry]) -> Subject:
    entry = pick(rng, entries)
    while entry.concept.kind != "one":
        entry = pick(rng, entries)
    count = 2 + int(rng.random() * (MAX_SUBJECTS - 1))
    return Subject(entry.concept, count, None, _paint(rng, entry))


def _pair(rng: random.Random, entries: Sequence[Entry]) -> tuple[Subject, Subject]:
    first = second = pick(rng, entries)
    while second is first:
        second = pick(rng, entries)
    return Subject(first.concept), Subject(second.concept)


def _setting(rng: random.Random) -> tuple[str, str | None]:
    """Any setting with any subject: people ask for a fox in the kitchen."""
    name, lights = pick(rng, _SETTINGS)
    stated = len(lights) > 1 and rng.random() < LIGHT_SHARE
    return name, pick(rng, lights) if stated else None


def _ground(rng: random.Random, subjects: tuple[Subject, ...]) -> int:
    """A colour other than the subject's paint, in which it would vanish."""
    while True:
        ground = int(rng.random() * len(COLOURS))
        if COLOURS[ground].english[0] != subjects[0].paint:
            return ground


def _scene(rng: random.Random) -> Description:
    chance = rng.random()
    if chance < SCENE_GROUND:
        return Description(ground=int(rng.random() * len(COLOURS)))
    if chance < SCENE_GROUND + SCENE_LIGHT:
        return Description(light=pick(rng, _LIGHTS))
    setting, light = _setting(rng)
    return Description(setting=setting, light=light)
