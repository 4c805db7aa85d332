"""The error of this package, and functions that make text from a file safe to show."""

from __future__ import annotations

import unicodedata
from typing import Final

_INVISIBLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn"})
"""Unicode categories that never belong in a log line or a list: control, format (bidirectional
overrides, zero width), lone surrogates, private use, unassigned."""


class LoraError(ValueError):
    """A file cannot be used as an adapter.

    `reason` is one sentence for users: the fault, what was given, what to do.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def visible(text: str, limit: int) -> str:
    """Returns `text` on one line, without invisible characters, cut to `limit` characters."""
    # Twice the limit: some characters are dropped, and the work on a hostile file is bounded.
    kept = (
        " " if character.isspace() else character
        for character in text[: 2 * limit]
        if character.isspace() or unicodedata.category(character) not in _INVISIBLE
    )
    line = " ".join("".join(kept).split())
    return line if len(line) <= limit else line[: limit - 1].rstrip() + "…"


def shown_value(value: object) -> str:
    """Returns a value of a JSON document as it may appear in an error."""
    if isinstance(value, str):
        return repr(visible(value, 60))
    if isinstance(value, list | dict):  # may be nested too deeply for repr
        return "a list" if isinstance(value, list) else "a table"
    return visible(repr(value), 60) if not isinstance(value, int) or abs(value) < 1e60 else "huge"


def shown(name: str) -> str:
    """Returns a tensor's, module's or field's name as it may appear in an error."""
    return visible(name, 120)
