"""The command line that base, Turbo and styles share. Owns its names and defaults."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from training import trained
from training.studio import Studio

Run = tuple[Callable[[argparse.ArgumentParser], None], Callable[[Studio, argparse.Namespace], None]]
"""Adds a run's own arguments; does it."""


def parser(doc: str | None) -> argparse.ArgumentParser:
    """Where things lie, on what to run and how to try it; the caller adds its own figures."""
    made = argparse.ArgumentParser(description=doc)
    made.add_argument("--cache", type=Path, default=Path(".run/training"), help="of training.data")
    made.add_argument("--base", type=Path, default=trained.CHECKPOINT, help="to go on from")
    made.add_argument("--out", type=Path, default=Path(".run/training/made"))
    made.add_argument("--concepts", type=int, default=None, help="only the first of the table")
    made.add_argument("--workers", type=int, default=16)
    made.add_argument("--examined", type=int, default=128, help="prompts drawn after a run")
    made.add_argument("--report", type=int, default=100, help="steps between two lines")
    made.add_argument("--device", default="cuda")
    made.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    return made


def run(doc: str | None, *runs: Run) -> None:
    """Does the runs that the command line describes, one after another in one studio."""
    made = parser(doc)
    for arguments, _ in runs:
        arguments(made)
    chosen = made.parse_args()
    studio = Studio(chosen)
    for _, train in runs:
        train(studio, chosen)
