"""Reports what the benchmarks measure: lines at once, a table at the end, JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Figure:
    """A measured value and the bound that is promised for it."""

    name: str
    measured: float
    unit: str
    bound: float
    at_most: bool = True
    note: str = ""

    @property
    def holds(self) -> bool:
        """True if the measured value is on the right side of the bound."""
        return self.measured <= self.bound if self.at_most else self.measured >= self.bound

    def line(self) -> str:
        """Returns the figure as one line of text."""
        bound = f"promised {'<=' if self.at_most else '>='} {self.bound:g} {self.unit}".rstrip()
        verdict = "holds" if self.holds else "MISSED"
        value = f"{self.name:58} {self.measured:10.3f} {self.unit:12} {bound:26} {verdict}"
        return f"{value}  {self.note}".rstrip()

    def as_json(self) -> dict[str, Any]:
        """Returns the figure and its verdict as plain values."""
        return asdict(self) | {"holds": self.holds}


def percentile(values: Sequence[float], share: float) -> float:
    """Returns the smallest value that at least `share` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, round(share * len(ordered) + 0.5) - 1))]


def print_table(figures: Sequence[Figure]) -> None:
    """Prints a table, then all figures as one line of JSON."""
    console = Console(width=max(110, Console().width))
    table = Table("figure", "measured", "promised", "", "how")
    for f in figures:
        sign = "≤" if f.at_most else "≥"
        verdict = "[green]holds[/]" if f.holds else "[red]missed[/]"
        table.add_row(
            f.name, f"{f.measured:.3g} {f.unit}", f"{sign} {f.bound:g} {f.unit}", verdict, f.note
        )
    console.print(table)
    print(json.dumps([f.as_json() for f in figures], ensure_ascii=False))


class Series:
    """The figures of several benchmarks, printed as they come and kept in a file by name.

    A run of one benchmark leaves the others' figures in the file as they are.

    Args:
        out: the file, JSON; None keeps none.
    """

    def __init__(self, out: Path | None) -> None:
        self._out = out
        self._by_name: dict[str, Any] = {}
        if out is not None and out.exists():
            self._by_name = json.loads(out.read_text(encoding="utf-8"))
        self.missed = False
        """True once a figure does not hold."""

    def add(self, name: str, figures: Sequence[Figure], **about: float) -> None:
        """Prints and keeps what one benchmark measured; `about` is kept beside the figures."""
        for figure in figures:
            print(figure.line(), flush=True)
            self.missed |= not figure.holds
        self._by_name[name] = {**about, "figures": [f.as_json() for f in figures]}
        if self._out is not None:
            text = json.dumps(self._by_name, indent=1, ensure_ascii=False)
            self._out.write_text(text + "\n", encoding="utf-8")


class Report:
    """Values without a bound, printed and written at once: an interrupted run keeps them.

    Args:
        line: what the run is; written whole, as one line of JSON, with each value.
        found: the dictionary in it that takes the values; may be `line` itself.
        out: the file; None writes none.
    """

    def __init__(self, line: dict[str, object], found: dict[str, object], out: Path | None) -> None:
        self._line, self._found, self._out = line, found, out

    def __call__(self, name: str, value: float) -> None:
        """Reports one value, rounded to four decimals in the file."""
        print(f"{name:44} {value:10.3f}", flush=True)
        self._found[name] = round(float(value), 4)
        if self._out:
            self._out.write_text(self.text() + "\n", encoding="utf-8")

    def text(self) -> str:
        """Returns all values so far as JSON."""
        return json.dumps(self._line)
