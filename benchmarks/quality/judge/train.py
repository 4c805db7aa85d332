"""Trains the judge: `python -m benchmarks.quality.judge.train`.

It sees variants of the scenes that the generator never sees. Then it is tried on the generator's
own, undistorted, and its accuracy, which bounds what it can attest, is saved beside its weights.

`--seconds` count from the command's start: rendering and compiling are part of them, and the trial
ends a minute later at most. Weights are saved all the while, so that a run that is interrupted by a
signal, or by the end of its time, leaves a judge.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.judge import accuracy, reading
from benchmarks.quality.judge.bank import Bank
from benchmarks.quality.judge.network import Judge
from benchmarks.quality.judge.samples import NONE, Labels, Sampler
from training import loop
from training.data import concepts as table
from training.grounds import HELD_OUT, VARIANTS, Kind, kinds
from training.renderings import Rendered, render
from training.styles import PLAIN
from training.team import Team

TRIAL = 50.0
"""Seconds after the training's end at which the command ends in any case."""


def options() -> argparse.Namespace:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=240.0, help="until the training ends")
    add("--batch", type=int, default=192)
    add("--rate", type=float, default=2e-3)
    add("--decay", type=float, default=0.5, help="last share of the time, of falling rate")
    add("--variants", type=int, default=6, help="of each scene; the generator sees none of them")
    add("--concepts", type=int, default=None, help="use only the first N")
    add("--kinds", type=int, default=None, help="use only N kinds of grounds, evenly chosen")
    add("--tried", type=int, default=4096, help="images of the report")
    add("--bank", type=float, default=20.0, help="seconds between two saves")
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
    """Renders, trains, tries, and saves; exits with one line if its training was interrupted."""
    began = time.monotonic()
    chosen = options()
    for sent in (signal.SIGTERM, signal.SIGALRM):
        signal.signal(sent, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, chosen.seconds + TRIAL)
    try:
        run(chosen, began + chosen.seconds)
    except KeyboardInterrupt:
        sys.exit(f"the training was interrupted after {time.monotonic() - began:.0f} s")
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def run(chosen: argparse.Namespace, end: float) -> None:
    """Trains until `end`, of the monotonic clock, and tries the judge."""
    torch.set_float32_matmul_precision("high")
    device = torch.device(chosen.device)
    concepts = table.read()[: chosen.concepts]
    codes = [concept.code for concept in concepts]
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
            keep=True,
        )

    torch.manual_seed(1)
    network = Judge(len(concepts)).to(device)
    bank = Bank(network, codes, chosen.out, chosen.bank)
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

    def measured(images: Tensor, *labels: Tensor) -> dict[str, Tensor]:
        return losses(network, images, Labels(*labels))

    # Compiles, which may take a minute, before what is left of the time is known.
    torch.stack(list(measured(*sample()).values())).sum().backward()
    network.zero_grad()

    def next_batch() -> tuple[Tensor, ...]:
        bank.update()
        return sample()

    left = end - time.monotonic()
    print(f"training for {left:.0f} s", flush=True)
    plan = loop.Plan(max(left, 1.0), chosen.rate, chosen.decay, chosen.report, Team())
    try:
        curve = loop.run(network, next_batch, measured, plan)
    except KeyboardInterrupt:
        if bank.steps:
            bank.save()
        raise
    network.eval().requires_grad_(False)
    facts = {"images": curve[-1]["step"] * chosen.batch, "curve": curve}
    bank.save_network(network, **facts)
    print(f"saved {chosen.out}", flush=True)
    del sampler
    try:
        # The weights as they are saved, so that the report is about them.
        network = reading.load(codes, device, chosen.out)
        sampler = Sampler(rendered(range(VARIANTS)), grounds, compiled=False, distorted=False)
        for found in accuracy.measure(network, sampler, chosen.tried):
            bank.save_facts(accuracy=found, **facts)
            print(json.dumps(found), flush=True)
    except KeyboardInterrupt:
        print("the trial was interrupted; the judge is saved", flush=True)


if __name__ == "__main__":
    main()
