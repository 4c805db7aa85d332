"""Plans which images are generated for which figure; an image may serve several."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Final

from benchmarks.quality import prompts
from benchmarks.quality.image_generator import Generated, ImageSpec, Variant
from benchmarks.quality.prompts import GROUPS, Prompt
from training.data import concepts
from training.data.prose.description import Description, Subject

Images = Mapping[ImageSpec, Generated]
Series = list[tuple[Prompt, ImageSpec]]

STEPS: Final = 4
BASE_STEPS: Final = 20
ROWS: tuple[tuple[str, Variant, int], ...] = (
    ("Turbo, 1 step", "turbo", 1),
    ("Turbo, 2 steps", "turbo", 2),
    ("Turbo, 3 steps", "turbo", 3),
    ("Turbo, 4 steps", "turbo", STEPS),
    ("base, 4 steps", "base", STEPS),
    ("base, 20 steps", "stock", BASE_STEPS),
)
"""Rows of the table of steps: title, variant, steps."""
TABLE_GROUPS: Final = ("prose", "scenes", "two", "counts", "paints", "relations")
"""Groups from which the prompts of the table and of the styles are taken in turn."""
OPEN: Final = ("cat", "sailboat", "cup of coffee", "castle")
"""Subjects of which nothing else is said, drawn from TEN seeds."""
TEN: Final = 10
SEEDS: Final = "seeds"


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of prompts: of each group at most, for the table of steps, and for each style."""

    group: int
    table: int
    style: int


def open_prompts() -> list[Prompt]:
    """Returns OPEN, each with TEN seeds."""
    known = {concept.english: concept for concept in concepts.read()}
    return [
        Prompt(name, "en", seed, Description((Subject(known[name]),)))
        for name in OPEN
        for seed in range(1, TEN + 1)
    ]


def in_turn(groups: Mapping[str, Sequence[Prompt]], count: int) -> list[Prompt]:
    """Returns `count` prompts of TABLE_GROUPS, one of each in turn."""
    columns = zip_longest(*(groups[name] for name in TABLE_GROUPS))
    return [prompt for prompt in chain.from_iterable(columns) if prompt is not None][:count]


def plan(counts: Counts, styles: Sequence[str]) -> dict[str, Series]:
    """Returns all series by name: groups of prompts, ROWS, SEEDS, and styles."""
    groups = {name: prompts.read(name) for name in GROUPS}

    def made(
        of: Sequence[Prompt], variant: Variant = "turbo", steps: int = STEPS, style: str = ""
    ) -> Series:
        return [(p, ImageSpec(variant, steps, p.text, p.seed, style)) for p in of]

    table = in_turn(groups, counts.table)
    return {
        **{name: made(of if name == "own" else of[: counts.group]) for name, of in groups.items()},
        SEEDS: made(open_prompts()),
        **{title: made(table, variant, steps) for title, variant, steps in ROWS},
        **{style: made(in_turn(groups, counts.style), style=style) for style in styles},
    }


def languages(planned: Mapping[str, Series], count: int) -> tuple[Series, Series]:
    """Returns up to `count` English rows of bare nouns and of prose in turn, and the Chinese ones.

    Rows of the same number have the same description and seed.
    """

    def of(first: int) -> Series:
        columns = zip_longest(planned["bare"][first::2], planned["prose"][first::2])
        return [row for row in chain.from_iterable(columns) if row is not None][:count]

    english, chinese = of(0), of(1)
    return english[: len(chinese)], chinese
