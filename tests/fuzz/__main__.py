"""`make fuzz`: many inputs for every target, one process, at low priority; goes on where it was.

Owns how inputs are shared among targets, the record of what was tried, and its one line a target.
What is found lies in .run/fuzz: inputs that reach new code, and those that make a target fail.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tests.fuzz import campaign
from tests.fuzz.shares import SHARES, share

WORK = campaign.ROOT / ".run" / "fuzz"
RECORD = campaign.ROOT / "benchmarks" / "results" / "fuzz.json"
PIECE = 100_000
"""Inputs in a process; the record is written after each, so that little is lost by Ctrl-C."""


def main() -> None:
    """Exits with 1 if any input made a target fail."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    wanted = int(os.environ.get("WULIART_FUZZ_INPUTS", "10000000"))
    parser.add_argument("--inputs", type=int, default=wanted, help="over all targets")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--afresh", action="store_true", help="forget what the record says")
    options = parser.parse_args()
    record = _read(options.record) if not options.afresh else {}
    ends = time.monotonic() + options.seconds
    try:
        # A piece of each in turn, all of them: whenever it is stopped, each has had its part.
        while time.monotonic() < ends and any(
            [_go_on(target, options.inputs, record, ends) for target in SHARES]  # noqa: C419
        ):
            _write(options.record, record)
    except KeyboardInterrupt:
        print("stopped; the next `make fuzz` goes on here", file=sys.stderr)
    _write(options.record, record)
    crashes = 0
    for target, so_far in record.items():
        crashes += so_far["crashes"]
        rate = so_far["inputs"] / max(so_far["seconds"], 1e-9)
        print(
            f"{target:10} {so_far['inputs']:>12,} inputs {so_far['seconds']:>9,.0f} s"
            f" {rate:>7,.0f}/s {so_far['crashes']} crashes"
        )
    print(f"{'all':10} {sum(r['inputs'] for r in record.values()):>12,} inputs")
    sys.exit(crashes > 0)


def _go_on(target: str, inputs: int, record: dict[str, Any], ends: float) -> bool:
    """The target's next piece; False if it has had all, or failed."""
    so_far = record.setdefault(target, {"inputs": 0, "seconds": 0.0, "crashes": 0})
    left = share(target, inputs) - so_far["inputs"]
    if left <= 0 or so_far["crashes"] or time.monotonic() >= ends:
        return False
    piece = min(left, PIECE * SHARES[target] // max(SHARES.values()))
    # Never the same twice, and the same again for whoever repeats it from the start.
    seed = 1 + so_far["inputs"] % (1 << 31)
    kept = Path(__file__).with_name("corpus") / target
    outcome = campaign.run(target, piece, seed, WORK / target, kept, nice=15)
    so_far["inputs"] += outcome.inputs
    so_far["seconds"] = round(so_far["seconds"] + outcome.seconds, 1)
    if outcome.crash:
        so_far["crashes"] += 1
        print(f"{target}: {outcome.crash}\nthe input lies in {WORK}", file=sys.stderr)
    return True


def _read(path: Path) -> dict[str, Any]:
    targets = json.loads(path.read_text())["targets"] if path.exists() else {}
    return {name: dict(so_far) for name, so_far in targets.items()}


def _write(path: Path, record: dict[str, Any]) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path.write_text(json.dumps({"date": today, "targets": record}, indent=2) + "\n")


if __name__ == "__main__":
    main()
