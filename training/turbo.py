"""Makes four steps enough: `python -m training.turbo`.

Owns the Turbo LoRA's run: the walk of `training.paths` from the base to its own targets. A base
that draws in four steps trusts, at each, a half-finished image that the steps before made too
soft; the LoRA learns to draw on from exactly that.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch

from training import loop, lora, options
from training.paths import STEPS, follow
from training.prompts import Pool
from training.studio import Studio
from training.styles import PLAIN

RANK = 64
METADATA = {
    "modelspec.title": "Turbo",
    "wuliart.schedule": "lightning",
    "modelspec.description": "Four steps without guidance; fused into the embedded base.",
}
FILE = "turbo.safetensors"


def arguments(parser: argparse.ArgumentParser) -> None:
    """What this run takes beside the common arguments."""
    add = parser.add_argument
    add("--turbo-seconds", type=float, default=420.0)
    add("--turbo-batch", type=int, default=128, help="paths in a step")
    add("--turbo-rate", type=float, default=1e-3)
    add("--turbo-seed", type=int, default=2)
    add("--turbo-resume", type=Path, help="file of an earlier run")


def train(studio: Studio, chosen: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves the LoRA, the curve and scores."""
    torch.manual_seed(chosen.turbo_seed)
    base = studio.base
    pool = Pool(base.tokenizer, studio.concepts, 12, chosen.turbo_seed, studio.device)
    student = lora.attach(copy.deepcopy(base.network), RANK)
    if chosen.turbo_resume:
        lora.fill(student, chosen.turbo_resume)
    if studio.compile:
        student.compile_blocks()

    plan = loop.Plan(chosen.turbo_seconds, chosen.turbo_rate, 0.5, chosen.report, replayed=True)
    curve = follow(student, base.text, pool, chosen.turbo_batch, studio.plain, plan)
    lora.save(student, studio.out / FILE, METADATA)
    paths = curve[-1]["step"] * chosen.turbo_batch
    result = {"paths": paths, "rate": chosen.turbo_rate, "curve": curve}

    exam = studio.exam(PLAIN, chosen.examined, chosen.turbo_seed + 1)
    scores = {}
    for name, network, steps in (
        *((f"turbo-{steps}", student, steps) for steps in range(1, STEPS + 1)),
        *((f"base-{steps}", base.network, steps) for steps in (STEPS, 20)),
    ):
        scores[name] = exam(network, steps, studio.out / f"{name}.jpg")._asdict()
        print(name, scores[name], flush=True)
    (studio.out / "turbo.json").write_text(json.dumps(result | {"scores": scores}))


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
