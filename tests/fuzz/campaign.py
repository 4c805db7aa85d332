"""Runs the fuzzing engine on one target, in a process of its own, with limits per input."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

SECONDS_AN_INPUT = 20
"""Time limit of one input: far above any regular input, even on a loaded machine."""

MEGABYTES = 1024
"""Memory limit of the engine's process; torch alone takes a quarter of it."""

MEGABYTES_AT_ONCE = 64
"""Limit of one allocation; inputs have at most 8 KiB."""


@dataclass(frozen=True)
class Outcome:
    """The result of a run of the engine."""

    inputs: int
    seconds: float
    crash: str
    """End of the engine's output if an input made the target fail, else empty."""


def run(target: str, inputs: int, *, seed: int, found: Path, kept: Path, nice: int = 0) -> Outcome:
    """Runs inputs through a target.

    Args:
        target: Name of the target.
        inputs: Number of inputs.
        seed: Seed of the engine.
        found: Folder for inputs that reach new code; failing inputs are written beside it.
        kept: Folder of initial inputs.
        nice: Increment of the process's niceness.
    """
    found.mkdir(parents=True, exist_ok=True)
    command = [
        # Linux carries the peak memory of a process over exec, and the engine would count it as
        # its own. A shell in between forks from a small process instead.
        *("sh", "-c", '"$@"; exit $?', "sh"),
        *(["nice", "-n", str(nice)] if nice else []),
        *(sys.executable, "-m", "tests.fuzz.engine", target),
        *(f"-runs={inputs}", f"-seed={seed}", "-print_final_stats=1", "-verbosity=1"),
        *(f"-timeout={SECONDS_AN_INPUT}", f"-rss_limit_mb={MEGABYTES}"),
        *(f"-malloc_limit_mb={MEGABYTES_AT_ONCE}", f"-artifact_prefix={found.parent}/{target}-"),
        str(found),
        str(kept),
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
