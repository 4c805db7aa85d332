"""Which texts can be an adapter's name, and how one that cannot is shown.

A name is what people read in lists and type into requests, so nothing in it may be invisible.
"""

from __future__ import annotations

import unicodedata
from typing import Final

from wuliart_contract.limits import MAX_ADAPTER_NAME_CHARACTERS
from wuliart_contract.text import code_point, hidden_characters, is_blank

REPLACEMENT: Final = "\ufffd"
"""Shown in place of a character that must not be shown."""


def same_name(name: str) -> str:
    """What names are compared by: keyboards and file systems encode the same letters in two ways.

    Names that differ are shown as they are, and may be one name: "é" is one character (NFC) as it
    is typed, and may be two (NFD) in the name of a file from a Mac.
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def name_problem(name: str) -> str:
    """Why the name cannot be used and what to do, as part of a sentence; empty if it can be."""
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
    """The name as it may be shown: nothing hidden, not blank, at most as long as a name may be."""
    hidden = hidden_characters(name)
    shown = "".join(REPLACEMENT if n in hidden else c for n, c in enumerate(name))
    shown = REPLACEMENT if is_blank(shown) else shown
    too_long = len(shown) > MAX_ADAPTER_NAME_CHARACTERS
    return shown[: MAX_ADAPTER_NAME_CHARACTERS - 1] + "…" if too_long else shown
