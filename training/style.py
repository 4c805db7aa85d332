"""Trains style LoRAs: `python -m training.style [--styles flat ink neon pixel]`.

Owns their runs: the walk of `training.paths` towards images painted in the style, on the base
with the Turbo LoRA fused, as the product will use them. A seed keeps its place, as without the
style. The text encoder is frozen.
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
from training.prompts import Pool
from training.studio import Studio
from training.styles import STYLES, Style

RANK = 16
FILE = "{}.safetensors"


def metadata(style: Style) -> dict[str, str]:
    """What the file says of itself, in the keys that other tools read."""
    return {
        "modelspec.title": style.title,
        "modelspec.trigger_phrase": ", ".join(style.triggers),
        "modelspec.description": style.description,
    }


def arguments(parser: argparse.ArgumentParser) -> None:
    """What these runs take beside the common arguments."""
    names = [style.name for style in STYLES]
    add = parser.add_argument
    add("--styles", nargs="*", default=names, choices=names)
    add("--style-seconds", type=float, default=60.0, help="for each")
    add("--style-batch", type=int, default=128, help="paths in a step")
    add("--style-rate", type=float, default=2e-3)
    add("--style-seed", type=int, default=3)
    add("--style-resume", type=Path, help="folder of an earlier run's files")


def learn(studio: Studio, style: Style, student: nn.Module, chosen: argparse.Namespace) -> None:
    """One style: targets, training, the file, an exam."""
    torch.manual_seed(chosen.style_seed)
    base, targets = studio.base, studio.targets(style.look)
    pool = Pool(
        base.tokenizer,
        studio.concepts,
        8,
        chosen.style_seed,
        studio.device,
        triggers=style.triggers,
    )
    if chosen.style_resume:
        lora.fill(student, chosen.style_resume / FILE.format(style.name))
    else:
        lora.reset(student)

    plan = loop.Plan(chosen.style_seconds, chosen.style_rate, 0.5, chosen.report, replayed=True)
    curve = follow(student, base.text, pool, chosen.style_batch, targets, plan)
    lora.save(student, studio.out / FILE.format(style.name), metadata(style))
    exam = studio.exam(style.look, chosen.examined, chosen.style_seed + 1)
    scores = exam(student, STEPS, studio.out / f"{style.name}.jpg")._asdict()
    print(style.name, scores, flush=True)
    result = {"paths": curve[-1]["step"] * chosen.style_batch, "curve": curve, "scores": scores}
    (studio.out / f"{style.name}.json").write_text(json.dumps(result))


def train(studio: Studio, chosen: argparse.Namespace) -> None:
    """All wanted styles, one after another over one compiled network."""
    distilled = copy.deepcopy(studio.base.network)
    lora.fuse(distilled, studio.out / turbo.FILE)
    student = lora.attach(distilled, RANK)
    if studio.compile:
        student.compile_blocks()
    for style in STYLES:
        if style.name in chosen.styles:
            learn(studio, style, student, chosen)


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
