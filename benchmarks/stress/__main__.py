"""What the service promises under stress, in one command.

    python -m benchmarks.stress [--full] [--minutes M] [--only load,...] [--nice N] [--out FILE]

Owns the order, how long each figure is measured, and how figures are told. Without options each
takes twenty seconds: long enough to see that it works, too short to see a slow leak.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

# As the server's own entry point does, before anything loads torch.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

from benchmarks.figure import Figure
from benchmarks.stress import load, soak, suites, watch
from benchmarks.stress.processes import be_nice

Measure = Callable[[float], list[Figure]]

SHORT_MINUTES = 1 / 3

MEASURES: dict[str, tuple[Measure, float]] = {
    "load": (load.load, 10),
    "fairness": (lambda _: load.fairness(), SHORT_MINUTES),
    "watch": (watch.watch, 2),
    "chaos": (suites.chaos, 10),
    "soak": (soak.soak, 30),
    "fuzz": (suites.fuzz, SHORT_MINUTES),
    "strangers": (suites.strangers, SHORT_MINUTES),
}
"""What measures it, and the stated minutes."""


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks.stress")
    parser.add_argument("--full", action="store_true", help="as long as is stated for each")
    parser.add_argument("--minutes", type=float, help="of each; left out: a third of one")
    parser.add_argument("--only", default=",".join(MEASURES), help="some of " + ", ".join(MEASURES))
    parser.add_argument("--nice", type=int, default=0, help="yield to others by so much")
    parser.add_argument("--out", type=Path, help="where the JSON goes; figures there are kept")
    values = parser.parse_args()
    values.only = values.only.split(",")
    if unknown := set(values.only) - MEASURES.keys():
        parser.error(f"no figure {', '.join(sorted(unknown))}; there are {', '.join(MEASURES)}")
    return values


def line_of(f: Figure) -> str:
    """A figure for people."""
    asked = f"asked for {'<=' if f.at_most else '>='} {f.bound:g} {f.unit}".rstrip()
    verdict = "reached" if f.holds else "MISSED"
    return f"{f.name:58} {f.measured:10.3f} {f.unit:12} {asked:26} {verdict}  {f.note}".rstrip()


def main() -> None:
    """Measures one after another; exits with 1 if a figure is missed."""
    values = _parse()
    be_nice(values.nice)
    told: dict[str, object] = {}
    if values.out and values.out.exists():
        told = json.loads(values.out.read_text(encoding="utf-8"))
    missed = False
    for name in values.only:
        measure, stated = MEASURES[name]
        minutes = values.minutes or (stated if values.full else SHORT_MINUTES)
        print(f"{name} ...", file=sys.stderr, flush=True)
        began = time.monotonic()
        figures = measure(60 * minutes)
        for figure in figures:
            print(line_of(figure), flush=True)
            missed |= not figure.holds
        told[name] = {
            "stated_minutes": stated,
            "asked_minutes": round(minutes, 2),
            "took_minutes": round((time.monotonic() - began) / 60, 2),
            "figures": [asdict(f) | {"holds": f.holds} for f in figures],
        }
        if values.out:
            text = json.dumps(told, indent=1, ensure_ascii=False)
            values.out.write_text(text + "\n", encoding="utf-8")
    print(json.dumps(told, ensure_ascii=False))
    sys.exit(missed)


if __name__ == "__main__":
    main()
