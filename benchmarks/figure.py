"""One measured promise. Owns how figures are shown; knows nothing of how they were measured."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A promise, what was measured, and whether it holds."""

    name: str
    measured: float
    unit: str
    bound: float
    at_most: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        """Whether the measured value is on the right side of the bound."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def report(figures: Sequence[Figure]) -> None:
    """A table for people, then one JSON line for programs."""
    console = Console(width=max(110, Console().width))
    table = Table("figure", "measured", "to reach", "", "how")
    for f in figures:
        sign = "≤" if f.at_most else "≥"
        verdict = "[green]holds[/]" if f.holds else "[red]missed[/]"
        table.add_row(
            f.name, f"{f.measured:.3g} {f.unit}", f"{sign} {f.bound:g} {f.unit}", verdict, f.note
        )
    console.print(table)
    print(json.dumps([asdict(f) | {"holds": f.holds} for f in figures], ensure_ascii=False))
