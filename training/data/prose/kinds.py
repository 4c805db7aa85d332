"""What common words outside the lexicon draw: the concept nearest in meaning, or no subject.

`kinds.tsv` is written by `select_kinds`; a word without a concept ("freedom") leaves the scene
alone. Words of `HELD_OUT_PERCENT` of the table are held out: no caption of the training has them.
"""

from __future__ import annotations

import csv
import hashlib
from functools import cache
from pathlib import Path

from training.data import concepts
from training.data.captions import LANGUAGES

TABLE = Path(__file__).with_name("kinds.tsv")
COLUMNS = ("word", "concept")
HELD_OUT_PERCENT = 15


def is_held_out(word: str) -> bool:
    """True if the word is for tests only; a function of the word alone."""
    digest = hashlib.sha256(word.encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < HELD_OUT_PERCENT


@cache
def _table() -> dict[str, int | None]:
    rows = {concept.english: row for row, concept in enumerate(concepts.read())}
    with TABLE.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        return {line["word"]: rows[line["concept"]] if line["concept"] else None for line in reader}


def _of(language: str, held_out: bool) -> dict[str, int | None]:
    if language not in LANGUAGES:
        raise ValueError(f"There are no kinds in {language!r}; choose one of {LANGUAGES}.")
    return {
        word: row
        for word, row in _table().items()
        if word.isascii() == (language == "en") and is_held_out(word) == held_out
    }


def read_kinds(language: str = "en") -> dict[str, int | None]:
    """Returns the row of the concept by the trained word, or None where it has no subject.

    Raises:
        ValueError: The language is not in `captions.LANGUAGES`.
    """
    return _of(language, held_out=False)


def read_held_out_kinds(language: str = "en") -> dict[str, int | None]:
    """Returns the same for the words that training never shows.

    Raises:
        ValueError: The language is not in `captions.LANGUAGES`.
    """
    return _of(language, held_out=True)
