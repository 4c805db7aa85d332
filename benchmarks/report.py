"""Figures as they are found. Owns the printed line and the file; knows not what is measured."""

from __future__ import annotations

import json
from pathlib import Path


class Report:
    """Tells every figure at once: a run that is cut off has told what it knew.

    Args:
        line: what the run is; written whole, as one line of JSON, with each figure.
        found: where in it figures go; `line` itself, or something inside.
        out: the file, if there is one.
    """

    def __init__(self, line: dict[str, object], found: dict[str, object], out: Path | None) -> None:
        self._line, self._found, self._out = line, found, out

    def __call__(self, name: str, value: float) -> None:
        """One figure."""
        print(f"{name:44} {value:10.3f}", flush=True)
        self._found[name] = round(float(value), 4)
        if self._out:
            self._out.write_text(self.text() + "\n", encoding="utf-8")

    def text(self) -> str:
        """Everything so far, as JSON."""
        return json.dumps(self._line)
