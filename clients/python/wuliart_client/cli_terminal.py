"""Output of the command. Escapes text of unknown origin before it reaches the terminal."""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def visible(text: str) -> str:
    """`text` with every character that could steer a terminal written as its escape.

    Control characters, line ends, direction overrides and lone surrogates go; spaces of all
    widths stay.
    """
    return "".join(
        char
        if char.isprintable() or unicodedata.category(char) == "Zs"
        else char.encode("unicode_escape").decode("ascii")
        for char in text
    )


def as_json(value: DataclassInstance | dict[str, Any]) -> str:
    """One line of ASCII JSON; enumerations by their value, moments in ISO 8601."""
    if not isinstance(value, dict):
        value = dataclasses.asdict(value)
    return json.dumps(value, default=lambda moment: moment.isoformat())


def _console(stderr: bool) -> Console:
    console = Console(stderr=stderr, markup=False, emoji=False, highlight=False)
    if not console.is_terminal:
        # A pipe must get whole lines, however long.
        console.width = 100_000
    return console


class Terminal:
    """Standard output for results, standard error for everything else."""

    def __init__(self) -> None:
        self.out = _console(stderr=False)
        self.err = _console(stderr=True)

    def line(self, text: str) -> None:
        """Write a line of results."""
        self.out.out(visible(text), highlight=False)

    def note(self, text: str) -> None:
        """Write a line for people to standard error."""
        self.err.out("wuliart: " + visible(" ".join(text.split())), highlight=False)

    def table(self, table: RenderableType) -> None:
        """Write a table of results."""
        self.out.print(table)
