"""Trains the judge: `python -m benchmarks.quality.judge.train`.

It sees variants of the scenes that the generator never sees. Then it is tried on the generator's
own, undistorted, and its accuracy, which bounds what it can attest, is saved beside its weights.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.judge import accuracy, reading
from benchmarks.quality.judge.network import Judge
from benchmarks.quality.judge.samples import NONE, Labels, Sampler
from training import loop
from training.data import concepts as table
from training.grounds import HELD_OUT, VARIANTS, Kind, kinds
from training.renderings import Rendered, render
from training.styles import PLAIN
from training.team import Team


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=120.0)
    add("--batch", type=int, default=192)
    add("--rate", type=float, default=2e-3)
    add("--decay", type=float, default=0.5, help="last share of the time, of falling rate")
    add("--variants", type=int, default=6, help="of each scene; the generator sees none of them")
    add("--concepts", type=int, default=None, help="use only the first N")
    add("--kinds", type=int, default=None, help="use only N kinds of grounds, evenly chosen")
    add("--tried", type=int, default=4096, help="images of the report")
    add("--report", type=int, default=100, help="steps between two lines")
    add("--cache", type=Path, default=Path(".run/training"), help="folder of training.data")
    add("--out", type=Path, default=reading.WEIGHTS, help="file of the weights")
    add("--workers", type=int, default=0, help="processes; 0 for one per core")
    add("--device", default="cuda")
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    return parser.parse_args()


def losses(network: Judge, images: Tensor, labels: Labels) -> dict[str, Tensor]:
    """Returns the losses by name."""
    read = network(images)
    said, near = labels.there >= 0, labels.edge >= 0
    heat = F.binary_cross_entropy_with_logits(
        read.there, labels.there.clamp(min=0), reduction="none", pos_weight=read.there.new_tensor(4)
    )
    edge = (read.edge - labels.edge).abs() * near
    named = F.cross_entropy(
        read.concept, labels.concept, ignore_index=NONE, label_smoothing=0.05, reduction="sum"
    )
    paint = F.cross_entropy(read.paint, labels.paint, ignore_index=NONE, reduction="sum")
    parts = {
        "there": 4 * (heat * said).sum() / said.sum(),
        "edge": 2 * edge.sum() / near.sum().clamp(min=1),
        "concept": named / near.sum().clamp(min=1),
        "paint": 0.3 * paint / (labels.paint != NONE).sum().clamp(min=1),
    }
    for name in ("setting", "light", "colour"):
        goal, logits = getattr(labels, name), getattr(read, name)
        loss = F.cross_entropy(logits, goal, ignore_index=NONE, reduction="sum")
        parts[name] = 0.5 * loss / (goal != NONE).sum().clamp(min=1)
    return parts


def main() -> None:
    """Renders, trains, tries, and saves."""
    chosen = options()
    torch.set_float32_matmul_precision("high")
    device = torch.device(chosen.device)
    concepts = table.read()[: chosen.concepts]
    every = kinds()
    step = len(every) / (chosen.kinds or len(every))
    grounds: tuple[Kind, ...] = tuple(
        every[int(n * step)] for n in range(chosen.kinds or len(every))
    )

    def rendered(variants: range) -> Rendered:
        return render(
            chosen.cache,
            PLAIN.set,
            concepts,
            variants=variants,
            device=device,
            workers=chosen.workers,
            chosen=grounds,
        )

    torch.manual_seed(1)
    network = Judge(len(concepts)).to(device)
    first = HELD_OUT.start
    sampler = Sampler(
        rendered(range(first, first + chosen.variants)),
        grounds,
        compiled=chosen.compile,
        distorted=True,
    )
    if chosen.compile:
        network.compile()

    def sample() -> tuple[Tensor, ...]:
        images, labels = sampler(chosen.batch)
        return images.contiguous(memory_format=torch.channels_last), *labels

    plan = loop.Plan(chosen.seconds, chosen.rate, chosen.decay, chosen.report, Team())
    curve = loop.run(
        network,
        sample,
        lambda images, *labels: losses(network, images, Labels(*labels)),
        plan,
    )
    network.eval().requires_grad_(False)
    del sampler
    reading.save(network, [concept.code for concept in concepts], chosen.out)
    # The weights as they are saved, so that the report is about them.
    network = reading.load([concept.code for concept in concepts], device, chosen.out)
    sampler = Sampler(rendered(range(VARIANTS)), grounds, compiled=False, distorted=False)
    found = accuracy.measure(network, sampler, chosen.tried)
    facts = {"accuracy": found, "images": curve[-1]["step"] * chosen.batch, "curve": curve}
    chosen.out.with_suffix(".json").write_text(json.dumps(facts) + "\n", encoding="utf-8")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
