"""Trains one LoRA adapter per style: `python -m training.style_adapters [--styles flat ink ...]`.

The adapters learn on the walk of `training.paths` towards images in the style, on the base with
the Turbo LoRA fused, as the product uses them. A seed means the same place as without the
adapter. The text encoder is frozen.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import nn

from training import loop, lora, options, turbo
from training.paths import STEPS, follow
from training.resources import Resources
from training.styles import STYLES, Style

RANK = 16
FILE = "{}.safetensors"


def metadata(style: Style) -> dict[str, str]:
    """Returns the file's metadata, under keys that other tools read."""
    return {
        "modelspec.title": style.title,
        "modelspec.trigger_phrase": ", ".join(style.triggers),
        "modelspec.description": style.description,
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds these runs' own arguments."""
    names = [style.name for style in STYLES]
    add = parser.add_argument
    add("--styles", nargs="*", default=names, choices=names)
    add("--style-seconds", type=float, default=60.0, help="duration for each style")
    add("--style-batch", type=int, default=128, help="paths in a step")
    add("--style-rate", type=float, default=2e-3)
    add("--style-seed", type=int, default=3)
    add("--style-resume", type=Path, help="folder of adapters to start from")


def learn(
    resources: Resources, style: Style, student: nn.Module, chosen: argparse.Namespace
) -> None:
    """Trains, saves, and evaluates the adapter of one style."""
    torch.manual_seed(chosen.style_seed)
    base, team = resources.base, resources.team
    if chosen.style_resume:
        lora.fill(student, chosen.style_resume / FILE.format(style.name))
    else:
        lora.reset(student)

    plan = loop.Plan(
        chosen.style_seconds,
        chosen.style_rate,
        0.5,
        chosen.report,
        team=team,
        until=chosen.until,
        replayed=chosen.replay,
    )
    team.seed(chosen.style_seed)
    stream = resources.stream(chosen.style_batch, chosen.style_seed, style.triggers)
    curve = follow(student, base.text, stream, resources.targets(style.look), plan)
    stream.close()
    if not team.leads:
        return
    lora.save(student, resources.out / FILE.format(style.name), metadata(style))
    evaluator = resources.evaluator(style.look, chosen.evaluated, chosen.style_seed + 1)
    scores = evaluator(student, STEPS, resources.out / f"{style.name}.jpg")._asdict()
    print(style.name, scores, flush=True)
    paths = curve[-1]["step"] * chosen.style_batch * team.size
    result = {"paths": paths, "curve": curve, "scores": scores}
    (resources.out / f"{style.name}.json").write_text(json.dumps(result))


def train(resources: Resources, chosen: argparse.Namespace) -> None:
    """Trains the chosen styles one after another, on one compiled network."""
    distilled = copy.deepcopy(resources.base.network)
    lora.fuse(distilled, resources.out / turbo.FILE)
    student = lora.attach(distilled, RANK)
    if resources.compile:
        student.compile_blocks()
    for style in STYLES:
        if style.name in chosen.styles:
            learn(resources, style, student, chosen)


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
