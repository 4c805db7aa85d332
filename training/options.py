"""The command line that the runs of base, Turbo LoRA, and style adapters share."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path

from training import trained
from training.resources import Resources

Run = tuple[
    Callable[[argparse.ArgumentParser], None], Callable[[Resources, argparse.Namespace], None]
]
"""Two functions: one adds a run's own arguments, the other does the run."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Returns a parser with the common arguments: paths, device, and the extent of a run."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument(
        "--cache", type=Path, default=Path(".run/training"), help="folder of training.data"
    )
    made.add_argument(
        "--base", type=Path, default=trained.CHECKPOINT, help="checkpoint to start from"
    )
    made.add_argument("--out", type=Path, default=Path(".run/training/made"))
    made.add_argument("--concepts", type=int, default=None, help="use only the first N")
    made.add_argument("--vae", type=Path, default=trained.VAE, help="weights of the VAE")
    made.add_argument("--workers", type=int, default=0, help="processes; 0 for one per core")
    made.add_argument("--evaluated", type=int, default=128, help="prompts generated after a run")
    made.add_argument(
        "--until",
        type=float,
        default=math.inf,
        help="end training by this time, in seconds since the epoch: a leased machine's end",
    )
    made.add_argument("--report", type=int, default=100, help="steps between two lines")
    made.add_argument("--device", default="cuda")
    made.add_argument(
        "--replay",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="capture walks as CUDA graphs, one for each length of captions",
    )
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return made


def run(doc: str | None, *runs: Run) -> None:
    """Parses the command line and does the runs one after another, with shared resources."""
    made = parser(doc)
    for arguments, _ in runs:
        arguments(made)
    chosen = made.parse_args()
    resources = Resources(chosen)
    for _, train in runs:
        train(resources, chosen)
