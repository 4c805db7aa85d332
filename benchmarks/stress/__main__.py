"""The service under stress: load, fairness, idle watchers, and a soak.

    python -m benchmarks.stress [--full] [--minutes M] [--only load,...] [--nice N] [--out FILE]

Without options each benchmark takes twenty seconds: enough to see that it works, too short to find
a slow leak. `--full` takes the stated minutes. Faults, attacks, and hostile input are tests: see
`make chaos` and `make fuzz`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

# As the server's own entry point does, before anything loads torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.report import Figure, Series
from benchmarks.stress import load, soak, watch
from benchmarks.stress.processes import be_nice

Measure = Callable[[float], list[Figure]]

SHORT_MINUTES = 1 / 3

MEASURES: dict[str, tuple[Measure, float]] = {
    "load": (load.load, 10),
    "fairness": (lambda _: load.fairness(), SHORT_MINUTES),
    "watch": (watch.watch, 2),
    "soak": (soak.soak, 30),
}
"""Name: the benchmark and its stated minutes."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.stress")
    parser.add_argument("--full", action="store_true", help="take each benchmark's stated minutes")
    parser.add_argument("--minutes", type=float, help="minutes of each; default: a third of one")
    parser.add_argument("--only", default=",".join(MEASURES), help=", ".join(MEASURES))
    parser.add_argument("--nice", type=int, default=0, help="niceness of all processes")
    parser.add_argument("--out", type=Path, help="JSON file, updated")
    values = parser.parse_args()
    values.only = values.only.split(",")
    if unknown := set(values.only) - MEASURES.keys():
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    return values


def main() -> None:
    """Runs the benchmarks one after another; exits with 1 if a figure is missed."""
    values = _parse()
    be_nice(values.nice)
    series = Series(values.out)
    for name in values.only:
        measure, stated = MEASURES[name]
        minutes = values.minutes or (stated if values.full else SHORT_MINUTES)
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        figures = measure(60 * minutes)
        took = (time.monotonic() - began) / 60
        series.add(
            name,
            figures,
            stated_minutes=stated,
            requested_minutes=round(minutes, 2),
            took_minutes=round(took, 2),
        )
    sys.exit(series.missed)


if __name__ == "__main__":
    main()
