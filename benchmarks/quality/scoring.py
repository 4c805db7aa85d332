"""Plans the series of images behind each figure, and scores them against the references."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.quality import measures
from benchmarks.quality.image_generator import Generated, ImageSpec, Variant
from benchmarks.quality.prompts import Prompt
from benchmarks.quality.references import PLAIN, SMALL, References

Images = Mapping[ImageSpec, Generated]
Series = list[tuple[Prompt, ImageSpec]]
STEPS = 4
BASE_STEPS = 20
ROWS: tuple[tuple[str, Variant, int], ...] = (
    ("Turbo, 1 step", "turbo", 1),
    ("Turbo, 2 steps", "turbo", 2),
    ("Turbo, 3 steps", "turbo", 3),
    ("Turbo, 4 steps", "turbo", STEPS),
    ("base, 4 steps", "base", STEPS),
)
"""Rows of the table of steps: title, variant, steps."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Numbers of prompts: for most figures, for the table of steps, and for each style."""

    prompts: int
    table: int
    style: int


def plan(
    prompts: Sequence[Prompt], ten: Sequence[Prompt], counts: Counts, styles: Sequence[str]
) -> dict[str, Series]:
    """Returns all series by name; an image may be part of several."""
    series: dict[str, Series] = {
        "english": [(p, ImageSpec("turbo", STEPS, p.english, p.seed)) for p in prompts],
        "chinese": [(p, ImageSpec("turbo", STEPS, p.chinese, p.seed)) for p in prompts],
        "seeds": [(p, ImageSpec("turbo", STEPS, p.english, p.seed)) for p in ten],
    }
    for title, variant, steps in ROWS:
        rows = [(p, ImageSpec(variant, steps, p.english, p.seed)) for p in prompts[: counts.table]]
        series[title] = rows
    for style in styles:
        series[style] = [
            (p, ImageSpec("turbo", STEPS, p.english, p.seed, style))
            for p in prompts[: counts.style]
        ]
    series["base 20"] = [(p, ImageSpec("stock", BASE_STEPS, p.english, p.seed)) for p in prompts]
    return series


@dataclass(frozen=True, slots=True)
class ImageScore:
    """Measures of one image."""

    rank: int
    """Number of references nearer than the right one."""
    distance: float
    """RMS distance to the right reference."""
    colour: bool
    """True if the background is the requested one."""
    sharpness: float
    """Mean gradient as a share of the right reference's."""
    plain: float
    """RMS distance to the right reference in the plain look."""


@dataclass(frozen=True, slots=True)
class Scores:
    """Scores of a series. Shares are in percent of all images; a missing image is a miss."""

    top1: float
    top5: float
    colour: float
    styled: float
    """Share of images nearer to the style's own reference than to the plain one."""
    distance: float
    """Mean over the images that were generated."""
    sharpness: float
    """Mean over the images that were generated."""

    @classmethod
    def of(cls, image_scores: Sequence[ImageScore | None]) -> Scores:
        """Averages the scores of images; None stands for an image that was not generated."""
        there = [m for m in image_scores if m is not None]

        def percent(right: Callable[[ImageScore], bool]) -> float:
            return 100 * sum(map(right, there)) / len(image_scores) if image_scores else 0.0

        return cls(
            percent(lambda m: m.rank == 0),
            percent(lambda m: m.rank < 5),
            percent(lambda m: m.colour),
            percent(lambda m: m.distance < m.plain),
            statistics.fmean(m.distance for m in there) if there else 1.0,
            statistics.fmean(m.sharpness for m in there) if there else 0.0,
        )


class Scorer:
    """Scores images against references; keeps those of the plain look and of one style loaded.

    Args:
        references: References of all looks.
        device: Device to compare on.
    """

    def __init__(self, references: References, device: torch.device) -> None:
        self._references, self._device = references, device
        self._plain = references.all(PLAIN)
        self._look, self._styled = PLAIN, self._plain

    def score(self, series: Series, images: Images, look: str = PLAIN) -> list[ImageScore | None]:
        """Scores each image of a series; None for one that was not generated."""
        if look != self._look:
            self._look = look
            self._styled = self._plain if look == PLAIN else self._references.all(look)
        return [self._score(prompt, images[spec].image) for prompt, spec in series]

    def _score(self, prompt: Prompt, image: Tensor | None) -> ImageScore | None:
        if image is None:
            return None
        shown = image.to(self._device).float() / 255
        small = measures.pooled(shown, SMALL)
        distance = measures.distances(small, self._styled[prompt.colour].float() / 255)
        plain = self._plain[prompt.colour, prompt.concept][None].float() / 255
        ground = measures.border_median(shown)
        right = self._references.one(self._look, prompt.concept, prompt.colour)
        return ImageScore(
            measures.rank(distance, prompt.concept),
            float(distance[prompt.concept]),
            measures.nearest_colour(ground, self._references.palette) == prompt.colour,
            measures.sharpness(shown, right),
            float(measures.distances(small, plain)[0]),
        )


def centred(series: Series, images: Images, within: float = 0.05) -> int:
    """Counts the images of a series whose subject is centred within a share of the edge."""
    offsets = [
        measures.off_centre(image.float() / 255)
        for _, spec in series
        if (image := images[spec].image) is not None
    ]
    return sum(offset is not None and offset <= within for offset in offsets)


def black(images: Sequence[Generated]) -> int:
    """Counts the images that show nothing."""
    return sum(measures.is_black(d.image.float() / 255) for d in images if d.image is not None)
