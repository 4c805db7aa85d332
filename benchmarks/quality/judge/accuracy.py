"""Tries the judge on images of which everything is known."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import torch

from benchmarks.quality.judge.network import CELLS, Judge
from benchmarks.quality.judge.reading import Judgement, judgements
from benchmarks.quality.judge.samples import NONE, Labels, Sampler
from training.data.scenes.scene import SETTINGS

AT_ONCE = 16
REPORT = 256

Tries = dict[str, list[bool]]


def measure(network: Judge, sampler: Sampler, count: int) -> Iterator[dict[str, float]]:
    """Yields shares of right readings in percent, by what was read, after every REPORT images.

    Args:
        network: The trained judge.
        sampler: Makes the images.
        count: Number of images, rounded up to whole batches. The last shares are of all of them.
    """
    tries: Tries = defaultdict(list)
    for start in range(0, count, AT_ONCE):
        with torch.no_grad():
            images, labels = sampler(AT_ONCE)
            for index, found in enumerate(judgements(network(images))):
                _try(tries, found, labels, index)
        done = start + AT_ONCE
        if done % REPORT == 0 or done >= count:
            yield {
                name: round(100 * sum(right) / len(right), 2)
                for name, right in sorted(tries.items())
            }


def _try(tries: Tries, found: Judgement, labels: Labels, index: int) -> None:
    setting = int(labels.setting[index])
    tries["setting"].append(found.setting == setting)
    if setting < len(SETTINGS):
        tries["light"].append(found.light == int(labels.light[index]))
    else:
        tries["colour"].append(found.colour == int(labels.colour[index]))
    cells = (labels.there[index] > 0).nonzero().tolist()
    right = [int(labels.concept[index, y, x]) for y, x in cells]
    tries["count"].append(len(found.subjects) == len(cells))
    if len(cells) == 1:
        rank = found.rank(right[0])
        tries["subject, first"].append(rank == 0)
        tries["subject, first five"].append(rank < 5)
        paint = int(labels.paint[index, cells[0][0], cells[0][1]])
        if paint != NONE and found.subjects:
            tries["paint"].append(found.subjects[0].paint == paint)
    if len(set(right)) == 2 == len(right):
        tries["both"].append({seen.concept for seen in found.subjects} >= set(right))
        places = found.places[right]
        true = (torch.tensor(cells).flip(1) + 0.5) / CELLS
        tries["places"].append(bool((places - true).abs().max() < 1.6 / CELLS))
