"""Compares images with the right ones: by steps, by seeds, and in styles."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from benchmarks.quality import measures
from benchmarks.quality.series import TEN, Images, Series
from benchmarks.quality.truth import Truth
from training.data.prose.description import Description
from training.styles import PLAIN, Look

VISIBLY = 0.05
"""RMS distance from which on two images differ visibly."""


def as_float(image: Tensor) -> Tensor:
    """Returns uint8 pixels as 0..1."""
    return image.float() / 255


def _shown(description: Description | None) -> Description:
    if description is None:
        raise ValueError("The prompt has no right image.")
    return description


@dataclass(frozen=True, slots=True)
class Likeness:
    """How images of a series compare with the right ones; means over those generated."""

    distance: float
    """RMS distance."""
    sharpness: float
    """Mean gradient as a share of the right image's."""
    each: tuple[float, ...]
    """Distance of each; 1 for one that was not generated."""


def likeness(series: Series, images: Images, truth: Truth) -> Likeness:
    """Compares a series with the right images."""
    distances, sharp = [], []
    for prompt, spec in series:
        image = images[spec].image
        if image is None:
            distances.append(1.0)
            continue
        right = as_float(truth.image(_shown(prompt.shown), prompt.seed))
        distances.append(measures.distance(as_float(image), right))
        sharp.append(measures.sharpness(as_float(image), right))
    return Likeness(
        statistics.fmean(distances), statistics.fmean(sharp) if sharp else 0.0, tuple(distances)
    )


@dataclass(frozen=True, slots=True)
class Seeds:
    """Shares in percent."""

    differ: float
    """Of pairs of seeds whose images differ visibly."""
    decide: float
    """Of images nearer to their own seed's right image than to any other seed's."""


def seeds(series: Series, images: Images, truth: Truth) -> Seeds:
    """Compares images of one prompt from TEN seeds each."""
    differ, decide = [], []
    for start in range(0, len(series), TEN):
        rows = series[start : start + TEN]
        right = torch.stack(
            [as_float(truth.image(_shown(prompt.shown), prompt.seed)) for prompt, _ in rows]
        )
        made = [images[spec].image for _, spec in rows]
        for number, image in enumerate(made):
            if image is None:
                decide.append(False)
                continue
            found = measures.distances(as_float(image), right)
            decide.append(bool(found[number] <= found.min()))
        differ += [
            one is not None
            and two is not None
            and measures.distance(as_float(one), as_float(two)) >= VISIBLY
            for one, two in combinations(made, 2)
        ]
    return Seeds(percent(differ), percent(decide))


@dataclass(frozen=True, slots=True)
class Styled:
    """Shares in percent of a style's images."""

    nearer: float
    """Nearer to the right image in the style than to it without."""
    kept: float
    """Nearer to their own right image in the style than to those of all other prompts."""


def styled(series: Series, images: Images, truth: Truth, look: Look) -> Styled:
    """Compares a style's images with the right images in its look."""

    def right(look: Look) -> Tensor:
        made = [truth.image(_shown(prompt.shown), prompt.seed, look) for prompt, _ in series]
        return as_float(torch.stack(made))

    in_style, plain = right(look), right(PLAIN)
    nearer, kept = [], []
    for number, (_, spec) in enumerate(series):
        image = images[spec].image
        if image is None:
            nearer.append(False)
            kept.append(False)
            continue
        found = measures.distances(as_float(image), in_style)
        own = found[number]
        nearer.append(bool(own < measures.distances(as_float(image), plain)[number]))
        kept.append(bool(own <= found.min()))
    return Styled(percent(nearer), percent(kept))


def percent(right: Sequence[bool]) -> float:
    """Returns the share of True in percent; 0 of nothing."""
    return 100 * sum(right) / len(right) if right else 0.0
