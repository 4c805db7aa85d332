"""Finds the bars of the clean measure: `python -m benchmarks.quality.calibration`.

Images of the fixed prompts are composed, and encoded and decoded by the VAE; both are clean. The
bars are the 99.9th percentiles of all of them with a margin, and are written to clean.json.
"""

from __future__ import annotations

import argparse
import json
from itertools import chain, zip_longest
from pathlib import Path

import torch
from rich.progress import track

from benchmarks.quality import clean, prompts
from benchmarks.quality.image_generator import ImageGenerator
from benchmarks.quality.measures import pooled
from benchmarks.quality.store import Store
from benchmarks.quality.truth import Truth
from benchmarks.quality.vae import RoundTrip
from inference_server.config import EMBEDDED_MODEL
from training.grounds import VARIANTS

SHARE = 0.999
MARGIN = 1.15
KEPT = Path(".run/quality")


def main() -> None:
    """Composes, reconstructs, measures, and writes the bars."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=400, help="number of images")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--model", type=Path, default=EMBEDDED_MODEL, help="checkpoint")
    chosen = parser.parse_args()
    device, store = torch.device(chosen.device), Store(KEPT, fresh=False)
    truth = Truth(Path(".run/training"), store, device)
    generator = ImageGenerator(chosen.model, None, Path("loras"), device=device, store=store)
    round_trip = RoundTrip(generator)
    groups = [prompts.read(name)[::2] for name in ("scenes", "prose", "two", "lights", "paints")]
    shown = [p.shown for p in chain.from_iterable(zip_longest(*groups)) if p and p.shown]
    found = []
    for number, description in enumerate(track(shown[: chosen.count])):
        image = truth.full(description, number % VARIANTS, number % 3)
        for made in (image.cpu(), round_trip(image)):
            small = pooled(made, clean.EDGE)
            found.append((*clean.speckle(small), clean.seams(small)))
    values = torch.tensor(found)
    bars = [round(MARGIN * float(v), 6) for v in values.quantile(SHARE, dim=0)]
    facts = {
        "images": len(found),
        "largest": [round(float(v), 6) for v in values.amax(0)],
        "bars": {"speckle": bars[:-1], "seams": max(bars[-1], 0.01)},
    }
    clean.BARS.write_text(json.dumps(facts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
