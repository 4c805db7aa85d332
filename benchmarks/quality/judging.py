"""Compares what the judge sees with what prompts ask for."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from benchmarks.quality.comparing import percent
from benchmarks.quality.judge.reading import Judgement
from benchmarks.quality.results import share
from benchmarks.report import Figure
from training.data import concepts
from training.data.prose.description import Description
from training.data.prose.paints import PAINTS
from training.data.scenes.scene import DAYTIMES, SETTINGS

Verdict = Callable[[Judgement, Description], bool]
Judged = Sequence[tuple[Judgement | None, Description]]
"""Judgements of a series; None for an image that was not generated."""

SMALL_UP_TO, LARGE_FROM = 0.44, 0.6
"""Edges of small and large subjects as shares of the frame; the generator has 0.25 to 0.75."""
CLEAR: Final = 0.04
"""Difference of places, as a share of the frame, from which on a relation is seen."""

_INDEX = {concept.code: index for index, concept in enumerate(concepts.read())}


def _wanted(shown: Description) -> list[int]:
    return [_INDEX[subject.concept.code] for subject in shown.subjects]


def first(found: Judgement, shown: Description) -> bool:
    """The subject is seen more clearly than any other concept."""
    return found.rank(_wanted(shown)[0]) == 0


def first_five(found: Judgement, shown: Description) -> bool:
    """It is among the five seen most clearly."""
    return found.rank(_wanted(shown)[0]) < 5


def scene(found: Judgement, shown: Description) -> bool:
    """The setting is seen, or the colour of the plain background."""
    if shown.ground is not None:
        return found.setting == len(SETTINGS) and found.colour == shown.ground
    return shown.setting is not None and found.setting == list(SETTINGS).index(shown.setting)


def light(found: Judgement, shown: Description) -> bool:
    """The light is seen."""
    return shown.light is not None and found.light == list(DAYTIMES).index(shown.light)


def both(found: Judgement, shown: Description) -> bool:
    """Both subjects are seen, each in a place of its own."""
    return {seen.concept for seen in found.subjects} >= set(_wanted(shown))


def count(found: Judgement, shown: Description) -> bool:
    """As many subjects are seen, whatever they are."""
    return len(found.subjects) == sum(subject.count for subject in shown.subjects)


def relation(found: Judgement, shown: Description) -> bool:
    """Both subjects are seen, and the first is where the relation says."""
    one, other = (found.places[index] for index in _wanted(shown))
    right, down = (float(value) for value in one - other)
    beside = abs(right) > max(CLEAR, abs(down))
    upright = abs(down) > max(CLEAR, abs(right))
    return (
        both(found, shown)
        and {
            "next to": beside,
            "left of": beside and right < 0,
            "right of": beside and right > 0,
            "above": upright and down < 0,
            "below": upright and down > 0,
            None: True,
        }[shown.relation]
    )


def paint(found: Judgement, shown: Description) -> bool:
    """The subject seen most clearly has the colour."""
    wanted = shown.subjects[0].paint
    return bool(found.subjects) and wanted == list(PAINTS)[found.subjects[0].paint]


def size(found: Judgement, shown: Description) -> bool:
    """The subject seen most clearly is small or large."""
    if not found.subjects:
        return False
    edge = found.subjects[0].edge
    return edge <= SMALL_UP_TO if shown.subjects[0].size == "small" else edge >= LARGE_FROM


FIGURES: Final[Mapping[str, tuple[tuple[str, ...], Verdict, float]]] = {
    "subject recognised, first": (("bare", "prose"), first, 90),
    "subject among the first five": (("bare", "prose"), first_five, 97),
    "old form: subject": (("old",), first, 98),
    "old form: background": (("old",), scene, 97),
    "scene recognised": (("scenes",), scene, 90),
    "light recognised": (("lights",), light, 85),
    "two subjects both there": (("two",), both, 80),
    "count right": (("counts",), count, 85),
    "relation right": (("relations",), relation, 80),
    "colour of the subject": (("paints",), paint, 80),
    "size of the subject": (("sizes",), size, 80),
    "words held out: subject": (("synonyms",), first, 75),
    "typos: subject": (("typos",), first, 75),
    "mixed languages: subject": (("mixed",), first, 75),
}
"""Figures by name: the groups that they count, the verdict, and the floor in percent."""


def right(judged: Judged, verdict: Verdict) -> float:
    """Returns the share of images in percent of which the verdict is True."""
    return percent([found is not None and verdict(found, shown) for found, shown in judged])


def figures(
    judged: Mapping[str, Judged], base: Judged, turbo: Judged, accuracy: Mapping[str, float]
) -> list[Figure]:
    """Returns the judge's figures with their floors.

    Args:
        judged: Judgements by group.
        base: Of the images with one subject that the base generated in 20 steps.
        turbo: Of the same with Turbo in four.
        accuracy: The judge's own accuracy, which bounds what it can attest; empty if it was
            interrupted before it was tried.
    """
    made = []
    for name, (groups, verdict, floor) in FIGURES.items():
        rows = [row for group in groups for row in judged[group]]
        made.append(share(name, right(rows, verdict), floor, f"{len(rows)} prompts"))
    own = ", ".join(f"{name} {value:g} %" for name, value in accuracy.items()) or "not tried"
    made[0] = share(made[0].name, made[0].measured, made[0].bound, f"the judge itself: {own}")
    rows = [row for group in ("bare", "prose") for row in judged[group]]
    english, chinese = right(rows[::2], first), right(rows[1::2], first)
    slow, fast = right(base, first), right(turbo, first)
    return [
        *made,
        Figure(
            "Chinese behind English",
            english - chinese,
            "points",
            5,
            note=f"{chinese:.1f} % against {english:.1f} %, same descriptions and seeds",
        ),
        Figure(
            "Turbo in 4 steps behind the base in 20",
            slow - fast,
            "points",
            3,
            note=f"{fast:.1f} % against {slow:.1f} % of {len(base)}: stock diffusers, same noise",
        ),
    ]
