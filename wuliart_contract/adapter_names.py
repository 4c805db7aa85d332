"""Rules for adapter names, and the display of names that break them.

Users read names in lists and type them into requests, so a name has no invisible characters.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from wuliart_contract.limits import MAX_ADAPTER_NAME_CHARACTERS
from wuliart_contract.text import code_point, hidden_characters, is_blank

REPLACEMENT: Final = "\ufffd"
"""Shown in place of a character that must not be shown."""


def same_name(name: str) -> str:
    """Returns the form (NFC) in which names are compared; they are shown as they are.

    A typed "é" is usually one character (NFC), the "é" of a file name from a Mac two (NFD).
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def name_problem(name: str) -> str:
    """Returns why a name is invalid and what to do, as part of a sentence; empty if it is valid."""
    if any("\ud800" <= c <= "\udfff" for c in name):
        return "its name is not valid UTF-8; rename it"
    if is_blank(name.rpartition("/")[2]):
        return "its name is blank; rename it"
    for hidden in hidden_characters(name).values():
        return f"its name has the invisible character {code_point(hidden)}; rename it"
    if len(name) > MAX_ADAPTER_NAME_CHARACTERS:
        return (
            f"its name has {len(name)} characters, folders included, and "
            f"{MAX_ADAPTER_NAME_CHARACTERS} is the limit; rename it"
        )
    return ""


def printable(name: str) -> str:
    """Returns the name without hidden characters, not blank, and cut to the allowed length."""
    hidden = hidden_characters(name)
    shown = "".join(REPLACEMENT if n in hidden else c for n, c in enumerate(name))
    shown = REPLACEMENT if is_blank(shown) else shown
    too_long = len(shown) > MAX_ADAPTER_NAME_CHARACTERS
    return shown[: MAX_ADAPTER_NAME_CHARACTERS - 1] + "…" if too_long else shown
