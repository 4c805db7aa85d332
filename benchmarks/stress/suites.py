"""Figures that test suites and other programs find: faults, strangers, broken input.

Owns how each is run or read, and what of its result is a figure. Knows nothing of their inside.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.figure import Figure

ROOT = Path(__file__).parents[2]
FAULTS = "tests/chaos/test_random_faults.py"
STRANGERS = "tests/integration/test_strangers.py"
FUZZ = ROOT / "benchmarks" / "results" / "fuzz.json"

FULL_FAULTS = 200
FULL_SECONDS = 600.0

MARGIN_SECONDS = 600
"""For the golden images before, and for the last fault's end after."""


def _pytest(path: str, *options: str, **variables: str) -> tuple[int, str]:
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-s", "-p", "no:cacheprovider", *options, path],
        cwd=ROOT,
        env=os.environ | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    return run.returncode, run.stdout


def chaos(seconds: float) -> list[Figure]:
    """Kills, stops and restarts at random, with something to start again what has ended."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "faults.json"
        code, text = _pytest(
            FAULTS,
            f"--timeout={seconds + MARGIN_SECONDS:.0f}",
            WULIART_CHAOS="full",
            WULIART_CHAOS_SECONDS=str(seconds),
            WULIART_CHAOS_OUT=str(out),
        )
        if not out.exists():
            print(text[-3000:])
            return [Figure("chaos: runs without a result", 1, "", 0)]
        told = json.loads(out.read_text(encoding="utf-8"))
    if code:
        print(text[-3000:])
    wanted = int(FULL_FAULTS * min(1.0, seconds / FULL_SECONDS))
    requests = f"of {told['requests']} requests"
    note = f"{requests}; ended otherwise: {told['endings']}"
    by_kind = ", ".join(f"{kind} {worst:.1f}" for kind, worst in told["worst"].items())
    slow = f"{by_kind}; {told['stolen']}"
    return [
        Figure("chaos: faults", told["faults"], "", wanted, at_most=False, note=told["kinds"]),
        Figure("chaos: lost requests", told["lost"], "", 0, note=note),
        Figure("chaos: hung requests", told["hung"], "", 0),
        Figure("chaos: wrong images", told["wrong"], "", 0, note=f"{told['images']} compared"),
        Figure("chaos: recovery, worst", told["recovery"], "s", 5, note=slow),
        Figure("chaos: failed checks", int(code != 0), "", 0),
    ]


def strangers(_: float) -> list[Figure]:
    """Every RPC and door without credentials."""
    if not (ROOT / STRANGERS).exists():
        print("  there is no test of strangers")
        return []
    code, text = _pytest(STRANGERS)
    passed = re.search(r"(\d+) passed", text)
    note = f"{passed[1] if passed else 0} tests of {STRANGERS} passed"
    return [Figure("strangers: tests that failed", int(code != 0), "", 0, note=note)]


def fuzz(_: float) -> list[Figure]:
    """What the last run of the fuzzers has written."""
    if not FUZZ.exists():
        print(f"  there is no {FUZZ.relative_to(ROOT)}")
        return []
    told = json.loads(FUZZ.read_text(encoding="utf-8"))
    targets = told["targets"]
    inputs = sum(target["inputs"] for target in targets.values())
    crashes = sum(target["crashes"] for target in targets.values())
    note = ", ".join(f"{name} {target['inputs']}" for name, target in targets.items())
    return [Figure(f"fuzz: crashes of {inputs} inputs", crashes, "", 0, note=note)]
