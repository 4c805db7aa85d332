"""Trains the Turbo LoRA, which makes four steps enough: `python -m training.turbo`.

The LoRA learns on the walk of `training.paths`, with the base's own targets. In four steps, the
base continues at each step from a half-finished image that the previous steps left too soft; the
LoRA learns to continue from exactly those images.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch

from training import loop, lora, options
from training.paths import STEPS, follow
from training.resources import Resources
from training.styles import PLAIN

RANK = 64
METADATA = {
    "modelspec.title": "Turbo",
    "wuliart.schedule": "lightning",
    "modelspec.description": "Four steps without guidance; fused into the embedded base.",
}
FILE = "turbo.safetensors"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this run's own arguments."""
    add = parser.add_argument
    add("--turbo-seconds", type=float, default=420.0)
    add("--turbo-batch", type=int, default=128, help="paths in a step")
    add("--turbo-rate", type=float, default=1e-3)
    add("--turbo-seed", type=int, default=2)
    add("--turbo-resume", type=Path, help="Turbo LoRA to start from")


def train(resources: Resources, chosen: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves the LoRA, the curve, and the scores."""
    torch.manual_seed(chosen.turbo_seed)
    base = resources.base
    student = lora.attach(copy.deepcopy(base.network), RANK)
    if chosen.turbo_resume:
        lora.fill(student, chosen.turbo_resume)
    if resources.compile:
        student.compile_blocks()

    plan = loop.Plan(
        chosen.turbo_seconds,
        chosen.turbo_rate,
        0.5,
        chosen.report,
        team=resources.team,
        until=chosen.until,
        replayed=chosen.replay,
    )
    resources.team.seed(chosen.turbo_seed)
    stream = resources.stream(chosen.turbo_batch, chosen.turbo_seed)
    curve = follow(student, base.text, stream, resources.targets(PLAIN), plan)
    stream.close()
    if not resources.team.leads:
        return
    lora.save(student, resources.out / FILE, METADATA)
    paths = curve[-1]["step"] * chosen.turbo_batch * resources.team.size
    result = {"paths": paths, "rate": chosen.turbo_rate, "curve": curve}

    evaluator = resources.evaluator(PLAIN, chosen.evaluated, chosen.turbo_seed + 1)
    scores = {}
    for name, network, steps in (
        *((f"turbo-{steps}", student, steps) for steps in range(1, STEPS + 1)),
        *((f"base-{steps}", base.network, steps) for steps in (STEPS, 20)),
    ):
        scores[name] = evaluator(network, steps, resources.out / f"{name}.jpg")._asdict()
        print(name, scores[name], flush=True)
    (resources.out / "turbo.json").write_text(json.dumps(result | {"scores": scores}))


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
