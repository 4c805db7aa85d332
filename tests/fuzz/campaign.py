"""Many inputs for one target: the engine in a process of its own, and what came of it.

Owns the engine's command line, its limits of time and memory for one input, and the reading of its
last words. Knows nothing of targets but their names.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SECONDS_AN_INPUT = 20
"""Far more than any takes, also on a loaded machine; an input that hangs exceeds it."""

MEGABYTES = 1024
"""Of the whole process; torch alone takes a quarter of it."""

MEGABYTES_AT_ONCE = 64
"""Inputs have at most 8 KiB."""


@dataclass(frozen=True)
class Outcome:
    """What a run of the engine came to."""

    inputs: int
    seconds: float
    crash: str
    """The engine's last words if an input made the target fail; else empty."""


def run(target: str, inputs: int, seed: int, found: Path, *kept: Path, nice: int = 0) -> Outcome:
    """Tries that many inputs.

    Inputs that reach new code are written to `found`; those that make the target fail beside it.
    """
    found.mkdir(parents=True, exist_ok=True)
    command = [
        # Linux hands the greatest memory that a process ever had on to what it executes, and the
        # engine takes it for its own. What a shell starts begins anew, however large this one is.
        *("sh", "-c", '"$@"; exit $?', "sh"),
        *(["nice", "-n", str(nice)] if nice else []),
        *(sys.executable, "-m", "tests.fuzz.engine", target),
        *(f"-runs={inputs}", f"-seed={seed}", "-print_final_stats=1", "-verbosity=1"),
        *(f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEGABYTES}"),
        *(f"-malloc_limit_mb={MEGABYTES_AT_ONCE}", f"-artifact_prefix={found.parent}/{target}-"),
        *map(str, (found, *kept)),
    ]
    began = time.monotonic()
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, errors="replace")
    seconds = time.monotonic() - began
    tried = re.search(r"stat::number_of_executed_units: (\d+)", process.stderr)
    output = f"{process.stdout}\n{process.stderr}"
    return Outcome(
        int(tried[1]) if tried else 0,
        seconds,
        "" if process.returncode == 0 and tried else output[-6000:],
    )
