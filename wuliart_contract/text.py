"""Visible and invisible characters of prompts and names."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from typing import Final

_BLANK: Final = frozenset("\u115f\u1160\u2800\u3164\uffa0")
"""Hangul fillers and the empty Braille cell: letters and symbols that show nothing."""

_IGNORABLE: Final = (
    (0x00AD, 0x00AD), (0x034F, 0x034F), (0x061C, 0x061C), (0x115F, 0x1160), (0x17B4, 0x17B5),
    (0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0x2800, 0x2800),
    (0x3164, 0x3164), (0xFE00, 0xFE0F), (0xFEFF, 0xFEFF), (0xFFA0, 0xFFA0), (0xFFF0, 0xFFFB),
    (0x1BCA0, 0x1BCA3), (0x1D173, 0x1D17A), (0xE0000, 0xE0FFF),
)  # fmt: skip
"""Default_Ignorable_Code_Point of Unicode 16 (DerivedCoreProperties.txt), the annotation marks
U+FFF9 to U+FFFB, and the empty Braille cell: characters that show nothing of their own."""

_IGNORABLE_STARTS: Final = tuple(first for first, _ in _IGNORABLE)

_JOINERS: Final = frozenset("\u200c\u200d")

_KEYCAP: Final = "\u20e3"


def is_blank(text: str) -> bool:
    """Returns True if no character of the text can be seen.

    Separators, marks without a letter, formatting and unassigned characters show nothing.
    """
    return not any(unicodedata.category(c)[0] in "LNPS" and c not in _BLANK for c in text)


def is_ignorable(character: str) -> bool:
    """Returns True if the character shows nothing of its own."""
    code = ord(character)
    at = bisect_right(_IGNORABLE_STARTS, code) - 1
    return at >= 0 and code <= _IGNORABLE[at][1]


def skeleton(text: str) -> str:
    """Returns the text's visual form; texts with equal skeletons look the same.

    Ignorable characters are left out, composed and decomposed letters are one (NFC), and all
    spaces count as one plain space or, at either end of a part between slashes, as none. Letters
    of different scripts that look alike stay different.
    """
    if not text.isascii():
        kept = "".join(c for c in text if not is_ignorable(c))
        text = unicodedata.normalize("NFC", kept)
    if " " not in text and text.isascii() and text.isprintable():
        return text
    return "/".join(" ".join(part.split()) for part in text.split("/"))


def hidden_characters(text: str) -> dict[int, str]:
    """Position -> character, for all that hide something from a reader.

    These are control and line-breaking characters, halves of surrogate pairs, and ignorable
    characters. Joiners and variation selectors are none of them where scripts and emoji need them:
    behind a character outside ASCII, or before the mark that makes a keycap of a digit.
    """
    if text.isascii() and text.isprintable():
        return {}
    return {
        n: character
        for n, character in enumerate(text)
        if unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or (is_ignorable(character) and not _has_its_place(text, n))
    }


def code_point(character: str) -> str:
    """Returns Unicode's notation with the name: "U+200B ZERO WIDTH SPACE"."""
    return f"U+{ord(character):04X} {unicodedata.name(character, '')}".rstrip()


def _has_its_place(text: str, n: int) -> bool:
    """Returns True if the ignorable character at `n` is needed to show the one before it."""
    character = text[n]
    before = text[n - 1] if n else ""
    if character in _JOINERS:
        after = text[n + 1 : n + 2]
        return _is_visible_beyond_ascii(after) and (
            _is_visible_beyond_ascii(before) or _is_variation_selector(before)
        )
    if not _is_variation_selector(character):
        return False
    return _is_visible_beyond_ascii(before) or text[n + 1 : n + 2] == _KEYCAP


def _is_variation_selector(character: str) -> bool:
    return character != "" and (
        0xFE00 <= ord(character) <= 0xFE0F
        or 0xE0100 <= ord(character) <= 0xE01EF
        or character in "\u180b\u180c\u180d\u180f"
    )


def _is_visible_beyond_ascii(character: str) -> bool:
    return character > "\x7f" and not is_ignorable(character)
