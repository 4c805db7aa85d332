"""Which images are generated for which figure, and how a series of them scores.

Owns the series and their scores. Knows the artist and the references; shows nothing.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality import measures
from benchmarks.quality.artist import Drawn, Hand, Order
from benchmarks.quality.prompts import Prompt
from benchmarks.quality.references import PLAIN, SMALL, References

Images = Mapping[Order, Drawn]
Series = list[tuple[Prompt, Order]]
STEPS = 4
BASE_STEPS = 20
ROWS: tuple[tuple[str, Hand, int], ...] = (
    ("Turbo, 1 step", "turbo", 1),
    ("Turbo, 2 steps", "turbo", 2),
    ("Turbo, 3 steps", "turbo", 3),
    ("Turbo, 4 steps", "turbo", STEPS),
    ("base, 4 steps", "base", STEPS),
)
"""Of the table of steps: title, hand and steps."""


@dataclass(frozen=True, slots=True)
class Counts:
    """How many prompts each figure takes."""

    prompts: int
    table: int
    style: int


def plan(
    prompts: Sequence[Prompt], ten: Sequence[Prompt], counts: Counts, styles: Sequence[str]
) -> dict[str, Series]:
    """Every series by its name; the same order may be part of several."""
    series: dict[str, Series] = {
        "english": [(p, Order("turbo", STEPS, p.english, p.seed)) for p in prompts],
        "chinese": [(p, Order("turbo", STEPS, p.chinese, p.seed)) for p in prompts],
        "seeds": [(p, Order("turbo", STEPS, p.english, p.seed)) for p in ten],
    }
    for title, hand, steps in ROWS:
        rows = [(p, Order(hand, steps, p.english, p.seed)) for p in prompts[: counts.table]]
        series[title] = rows
    for style in styles:
        series[style] = [
            (p, Order("turbo", STEPS, p.english, p.seed, style)) for p in prompts[: counts.style]
        ]
    series["base 20"] = [(p, Order("stock", BASE_STEPS, p.english, p.seed)) for p in prompts]
    return series


@dataclass(frozen=True, slots=True)
class Mark:
    """What one image shows."""

    rank: int
    """References nearer than the right one."""
    distance: float
    """RMS to the right one."""
    colour: bool
    """Whether the background is the one asked for."""
    sharpness: float
    plain: float
    """RMS to the right reference without a style."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Shares in percent over all images of a series; an error counts as a miss everywhere."""

    top1: float
    top5: float
    colour: float
    styled: float
    """Nearer to the style's own reference than to the plain one."""
    distance: float
    """Mean over the images that there are, like sharpness."""
    sharpness: float

    @classmethod
    def of(cls, marks: Sequence[Mark | None]) -> Scores:
        """None stands for an image that was not generated."""
        there = [m for m in marks if m is not None]

        def percent(right: Callable[[Mark], bool]) -> float:
            return 100 * sum(map(right, there)) / len(marks) if marks else 0.0

        return cls(
            percent(lambda m: m.rank == 0),
            percent(lambda m: m.rank < 5),
            percent(lambda m: m.colour),
            percent(lambda m: m.distance < m.plain),
            statistics.fmean(m.distance for m in there) if there else 1.0,
            statistics.fmean(m.sharpness for m in there) if there else 0.0,
        )


class Examiner:
    """Marks images against references; keeps those of the plain look and one style at hand.

    Args:
        references: all there are.
        device: where images are compared.
    """

    def __init__(self, references: References, device: torch.device) -> None:
        self._references, self._device = references, device
        self._plain = references.all(PLAIN)
        self._look, self._styled = PLAIN, self._plain

    def marks(self, series: Series, images: Images, look: str = PLAIN) -> list[Mark | None]:
        """One mark per image, None where there is none."""
        if look != self._look:
            self._look = look
            self._styled = self._plain if look == PLAIN else self._references.all(look)
        return [self._mark(prompt, images[order].image) for prompt, order in series]

    def _mark(self, prompt: Prompt, image: Tensor | None) -> Mark | None:
        if image is None:
            return None
        shown = image.to(self._device).float() / 255
        small = measures.pooled(shown, SMALL)
        distance = measures.distances(small, self._styled[prompt.colour].float() / 255)
        plain = self._plain[prompt.colour, prompt.concept][None].float() / 255
        ground = measures.border_median(shown)
        right = self._references.one(self._look, prompt.concept, prompt.colour)
        return Mark(
            measures.rank(distance, prompt.concept),
            float(distance[prompt.concept]),
            measures.nearest_colour(ground, self._references.palette) == prompt.colour,
            measures.sharpness(shown, right),
            float(measures.distances(small, plain)[0]),
        )


def centred(series: Series, images: Images, within: float = 0.05) -> int:
    """How many images of a series have their subject in the middle."""
    offsets = [
        measures.off_centre(image.float() / 255)
        for _, order in series
        if (image := images[order].image) is not None
    ]
    return sum(offset is not None and offset <= within for offset in offsets)


def black(images: Sequence[Drawn]) -> int:
    """How many show nothing."""
    return sum(measures.is_black(d.image.float() / 255) for d in images if d.image is not None)
