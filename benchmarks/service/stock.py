"""The engine against the stock diffusers pipeline, on the embedded checkpoint.

Each side runs in a process of its own, for its peak memory. The sides alternate, so that a busy
moment of the machine affects both.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys

from benchmarks.report import Figure

ROUNDS = 3
IMAGES = 3


def measure() -> list[Figure]:
    """Measures the ratio of times per image, and both peaks of memory."""
    results: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
    for _ in range(ROUNDS):
        for side, kept in results.items():
            kept.append(_run(side))
    seconds = {s: statistics.median([r["seconds"] for r in kept]) for s, kept in results.items()}
    peaks = {s: statistics.median([r["peak_mb"] for r in kept]) for s, kept in results.items()}
    generating = {
        s: statistics.median([r["generating_mb"] for r in kept]) for s, kept in results.items()
    }
    return [
        Figure(
            "engine against stock diffusers, per image",
            seconds["stock"] / seconds["ours"],
            "× faster",
            2,
            at_most=False,
            note=f"{seconds['ours']:.2f} s against {seconds['stock']:.2f} s, in turns",
        ),
        Figure(
            "peak memory against stock",
            peaks["ours"] / peaks["stock"],
            "of stock's",
            1,
            note=f"whole process {peaks['ours']:.0f} MB against {peaks['stock']:.0f} MB; while "
            f"generating +{generating['ours']:.0f} MB against +{generating['stock']:.0f} MB",
        ),
    ]


def _run(side: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.service.stock_side", side, str(IMAGES)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    result: dict[str, float] = json.loads(output.splitlines()[-1])
    return result
