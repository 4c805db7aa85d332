"""Plots the loss curves of all runs: `python -m training.curves` writes docs/images/training.png.

Every JSON file of the bank that holds a curve becomes a panel.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

from matplotlib import pyplot as plt

from training.trained import BANK

IMAGE = Path("docs/images/training.png")
ORDER = ("vae", "base", "turbo")
"""The first panels; style adapters follow by name."""
COLUMNS = 4
AXES = ("step", "seconds")
"""Keys of a curve's rows that are not losses."""


def recorded() -> dict[str, dict[str, Any]]:
    """Returns the runs by name, each after the runs that it builds on."""
    runs = {path.stem: json.loads(path.read_text()) for path in sorted(BANK.glob("*.json"))}
    names = sorted(runs, key=lambda name: (*(name != first for first in ORDER), name))
    return {name: runs[name] for name in names if runs[name].get("curve")}


def main() -> None:
    """Plots the curves."""
    runs = recorded()
    rows = -(-len(runs) // COLUMNS)
    figure, panels = plt.subplots(
        rows, COLUMNS, figsize=(3.2 * COLUMNS, 2.6 * rows), squeeze=False, layout="constrained"
    )
    for panel in panels.flat[len(runs) :]:
        panel.axis("off")
    for panel, (name, run) in zip(panels.flat, runs.items(), strict=False):
        curve = run["curve"]
        for loss in (key for key in curve[0] if key not in AXES):
            panel.plot([row["seconds"] for row in curve], [row[loss] for row in curve], label=loss)
        panel.set_title(f"{name}: {curve[-1]['step']} steps, {curve[-1]['seconds']:.0f} s")
        panel.set_xlabel("seconds")
        panel.set_yscale("log")
        for which in (panel.yaxis.set_major_formatter, panel.yaxis.set_minor_formatter):
            which("{x:g}")
        panel.grid(alpha=0.3, which="both")
        panel.legend(frameon=False)
    figure.savefig(IMAGE, dpi=110)
    print(IMAGE)


if __name__ == "__main__":
    main()
