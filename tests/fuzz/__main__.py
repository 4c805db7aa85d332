"""`make fuzz`: runs many inputs through every target, at low priority; resumes an earlier run.

The record counts the inputs tried per target. .run/fuzz holds the findings: inputs that reach new
code, and inputs that make a target fail.
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
"""Inputs per process; the record is written after each, so that Ctrl-C loses little."""


def main() -> None:
    """Exits with 1 if any input made a target fail."""
    parser = argparse.ArgumentParser(prog="make fuzz", description=__doc__)
    default = int(os.environ.get("WULIART_FUZZ_INPUTS", "10000000"))
    parser.add_argument("--inputs", type=int, default=default, help="total over all targets")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="time limit")
    parser.add_argument("--record", type=Path, default=RECORD)
    parser.add_argument("--afresh", action="store_true", help="ignore the record")
    options = parser.parse_args()
    record = _read(options.record) if not options.afresh else {}
    ends = time.monotonic() + options.seconds
    try:
        # One piece of every target per round, so that each has had its share whenever this stops.
        while time.monotonic() < ends and any(
            [_run_piece(target, options.inputs, record, ends) for target in SHARES]  # noqa: C419
        ):
            _write(options.record, record)
    except KeyboardInterrupt:
        print("stopped; the next `make fuzz` resumes here", file=sys.stderr)
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


def _run_piece(target: str, inputs: int, record: dict[str, Any], ends: float) -> bool:
    """Runs the target's next piece; returns False if it has had its share or has failed."""
    so_far = record.setdefault(target, {"inputs": 0, "seconds": 0.0, "crashes": 0})
    left = share(target, inputs) - so_far["inputs"]
    if left <= 0 or so_far["crashes"] or time.monotonic() >= ends:
        return False
    piece = min(left, PIECE * SHARES[target] // max(SHARES.values()))
    # Differs from piece to piece, and repeats when the record is started afresh.
    seed = 1 + so_far["inputs"] % (1 << 31)
    kept = Path(__file__).with_name("corpus") / target
    outcome = campaign.run(target, piece, seed=seed, found=WORK / target, kept=kept, nice=15)
    so_far["inputs"] += outcome.inputs
    so_far["seconds"] = round(so_far["seconds"] + outcome.seconds, 1)
    if outcome.crash:
        so_far["crashes"] += 1
        print(f"{target}: {outcome.crash}\nthe input was saved in {WORK}", file=sys.stderr)
    return True


def _read(path: Path) -> dict[str, Any]:
    targets = json.loads(path.read_text())["targets"] if path.exists() else {}
    return {name: dict(so_far) for name, so_far in targets.items()}


def _write(path: Path, record: dict[str, Any]) -> None:
    today = datetime.datetime.now(datetime.UTC).date().isoformat()
    path.write_text(json.dumps({"date": today, "targets": record}, indent=2) + "\n")


if __name__ == "__main__":
    main()
