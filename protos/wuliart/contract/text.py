"""Whether a text shows anything: for prompts, and for names that people are to tell apart."""

from __future__ import annotations

import unicodedata
from typing import Final

_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Hangul fillers and the empty Braille cell: letters and symbols that show nothing."""


def is_blank(text: str) -> bool:
    """Whether no character of it can be seen.

    Separators, marks without a letter, formatting and unassigned characters show nothing.
    """
    return not any(unicodedata.category(c)[0] in "LNPS" and c not in _BLANK for c in text)
