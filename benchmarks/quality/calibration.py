"""Finds the bars of the clean measure: `python -m benchmarks.quality.calibration`.

Every ground in every light is composed with a subject, and encoded and decoded by the VAE; both are
clean. The bars are the 99.9th percentiles of all of them with a margin, and are written to
clean.json with the images that come nearest to each. Images are stored, so that a run resumes.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Iterator
from pathlib import Path

import torch
from rich.progress import track
from torch import Tensor

from benchmarks.quality import clean
from benchmarks.quality.image_generator import STORED_EDGE, ImageGenerator
from benchmarks.quality.measures import pooled
from benchmarks.quality.store import Store, StoreEntry
from benchmarks.quality.truth import Truth
from benchmarks.quality.vae import RoundTrip
from inference_server.config import EMBEDDED_MODEL
from training.data import concepts
from training.data.prose.description import Description, Subject
from training.grounds import VARIANTS, kinds

SHARE = 0.999
MARGIN, NARROW = 1.25, 1.1
"""Of all bars, and of the last of the worst places: there, real speckle is found a little above."""
KEPT = Path(".run/quality")
SEED = 7


def descriptions() -> list[Description]:
    """Returns one description of each ground, in a fixed random order, each with a subject."""
    grounds, known, choose = list(kinds()), concepts.read(), random.Random(SEED)
    choose.shuffle(grounds)
    made = []
    for kind in grounds:
        subject = (Subject(choose.choice(known)),)
        if kind.colour >= 0:
            made.append(Description(subject, ground=kind.colour))
        else:
            made.append(Description(subject, setting=kind.setting, light=kind.light))
    return made


def named(shown: Description) -> str:
    """Returns what an image shows, in words."""
    where = f"{shown.setting} {shown.light}" if shown.setting else f"plain {shown.ground}"
    return f"{shown.subjects[0].concept.english} on {where}"


class Images:
    """Composes images and their reconstructions, or reads them from the store.

    Args:
        store: Store of the images.
        truth: Composes.
        generator: Holds the checkpoint of the VAE.
    """

    def __init__(self, store: Store, truth: Truth, generator: ImageGenerator) -> None:
        self._store, self._truth, self._generator = store, truth, generator
        self._round_trip: RoundTrip | None = None

    def _composed(self, number: int, shown: Description) -> Tensor:
        return self._truth.full(shown, number % VARIANTS, number % 3)

    def _reconstructed(self, number: int, shown: Description) -> Tensor:
        self._round_trip = self._round_trip or RoundTrip(self._generator)
        return self._round_trip(self._composed(number, shown))

    def image(self, number: int, shown: Description, *, reconstructed: bool) -> Tensor:
        """Returns uint8 [3, EDGE, EDGE], as generated images are stored."""
        key = f"{self._truth.key}-{self._generator.key('base')}"
        name = f"calibration {number} {named(shown)} {reconstructed}"
        entry = self._store.read(key, name)
        if entry is None or entry.image is None:
            make = self._reconstructed if reconstructed else self._composed
            image = pooled(make(number, shown), STORED_EDGE).mul(255).round().to(torch.uint8)
            entry = StoreEntry({}, image.cpu().numpy())
            self._store.write(key, name, entry)
        return torch.from_numpy(entry.image)


def values(image: Tensor) -> list[float]:
    """Returns what is measured of an image, uint8: speckle, worst places, seams."""
    pixels = image.float() / 255
    return [*clean.speckle(pixels), *clean.worst_places(pixels), clean.seams(pixels)]


def main() -> None:
    """Composes, reconstructs, measures, and writes the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    shown = descriptions()
    parser.add_argument("--composed", type=int, default=len(shown), help="number of images")
    parser.add_argument("--reconstructed", type=int, default=len(shown), help="of these, at most")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="checkpoint")
    chosen = parser.parse_args()
    device, store = torch.device(chosen.device), Store(KEPT, fresh=False)
    generator = ImageGenerator(chosen.model, None, Path("loras"), device=device, store=store)
    images = Images(store, Truth(Path(".run/training"), store, device), generator)

    def made() -> Iterator[tuple[str, list[float]]]:
        for number, one in enumerate(track(shown[: chosen.composed])):
            yield named(one), values(images.image(number, one, reconstructed=False))
            if number < chosen.reconstructed:
                found = values(images.image(number, one, reconstructed=True))
                yield f"{named(one)}, reconstructed", found

    names, rows = zip(*made(), strict=True)
    table = torch.tensor(rows)
    bars = MARGIN * table.quantile(SHARE, dim=0)
    bars[-2] *= NARROW / MARGIN
    made_bars = [round(float(bar), 6) for bar in bars]
    scales = len(clean.SCALES)
    facts = {
        "images": len(names),
        "largest": [round(float(v), 6) for v in table.amax(0)],
        "nearest": [names[int(n)] for n in table.argmax(0)],
        "bars": {
            "speckle": made_bars[:scales],
            "worst_places": made_bars[scales:-1],
            "seams": max(made_bars[-1], 0.01),
        },
    }
    clean.BARS.write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
