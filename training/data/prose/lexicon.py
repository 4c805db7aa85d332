"""The words by which people name the table's concepts, and what is known of each as a subject.

`lexicon.tsv` has one row per concept, in the table's order and under its usual English name, with
what `concepts.tsv` does not say:

    name, habitat, paintable ("yes" or empty), plural (empty where the rules of `plurals` give it),
    English words, Chinese words

Words are separated by commas, common ones first. Each leads to one concept of the whole table. A
word marked "*" is held out: no training caption has it, so that it tests what the text encoder
makes of a word it never saw. Some of them share a part with a word that is trained ("*golden
retriever" beside "labrador retriever"); others share none. `habitats.tsv` says in which settings
a habitat's subjects look natural.
"""

from __future__ import annotations

import csv
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from training.data import concepts
from training.data.concepts import Concept
from training.data.prose.plurals import plural
from training.data.scenes import words

TABLE = Path(__file__).with_name("lexicon.tsv")
HABITATS = Path(__file__).with_name("habitats.tsv")
COLUMNS = ("name", "habitat", "paintable", "plural", "english", "chinese")
HELD_OUT = "*"


class LexiconError(ValueError):
    """lexicon.tsv or habitats.tsv breaks its rules; the message lists every violation."""


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one concept as a subject.

    Attributes:
        concept: The concept.
        english: English words for it in training: the usual name, its tags, and others.
        chinese: The same in Chinese.
        held_out_english: English words that training never shows.
        held_out_chinese: The same in Chinese.
        settings: Settings in which it looks natural, the most natural first.
        paintable: True where "a blue X" makes sense.
        plural: English plural of the usual name; the name itself where it takes no number.
    """

    concept: Concept
    english: tuple[str, ...]
    chinese: tuple[str, ...]
    held_out_english: tuple[str, ...]
    held_out_chinese: tuple[str, ...]
    settings: tuple[str, ...]
    paintable: bool
    plural: str


def _rows(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if tuple(reader.fieldnames or ()) != columns:
            raise LexiconError(f"{path} has columns {reader.fieldnames}, not {columns}.")
        return list(reader)


def habitats() -> dict[str, tuple[str, ...]]:
    """Returns the settings of each habitat, the most natural first."""
    return {
        row["habitat"]: tuple(row["settings"].split(","))
        for row in _rows(HABITATS, ("habitat", "settings"))
    }


def _words(cell: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The trained and the held-out words of a cell."""
    found = [word.strip() for word in cell.split(",") if word.strip()]
    held_out = tuple(w.removeprefix(HELD_OUT) for w in found if w.startswith(HELD_OUT))
    return tuple(w for w in found if not w.startswith(HELD_OUT)), held_out


def _entry(concept: Concept, row: dict[str, str], settings: tuple[str, ...]) -> Entry:
    english, held_out_english = _words(row["english"])
    chinese, held_out_chinese = _words(row["chinese"])
    several = plural(concept.english) if concept.kind == "one" else concept.english
    return Entry(
        concept=concept,
        english=(concept.english, *concept.english_tags, *english),
        chinese=(concept.chinese, *concept.chinese_tags, *chinese),
        held_out_english=held_out_english,
        held_out_chinese=held_out_chinese,
        settings=settings,
        paintable=row["paintable"] == "yes",
        plural=row["plural"] or several,
    )


def _check(rows: list[dict[str, str]], table: list[Concept]) -> None:
    """Raises LexiconError unless the rows are the table's, and their cells are valid."""
    named = [row["name"] for row in rows]
    expected = [concept.english for concept in table]
    if named != expected:
        place = next(
            (i for i, pair in enumerate(zip(named, expected, strict=False)) if pair[0] != pair[1]),
            min(len(named), len(expected)),
        )
        raise LexiconError(f"{TABLE.name} and concepts.tsv differ from row {place + 1} on.")
    known, scenes = habitats(), words.read()
    wrong = [
        f"habitat {habitat!r} has the unknown setting {setting!r}"
        for habitat, settings in known.items()
        for setting in settings
        if setting not in scenes
    ]
    for row in rows:
        if row["habitat"] not in known:
            wrong.append(f"{row['name']}: no habitat {row['habitat']!r}")
        if row["paintable"] not in ("yes", ""):
            wrong.append(f"{row['name']}: paintable is {row['paintable']!r}, not yes or empty")
    if wrong:
        raise LexiconError(f"{TABLE.name} breaks its rules:\n  " + "\n  ".join(wrong))


def _check_words(entries: list[Entry]) -> None:
    """Raises LexiconError for words that occur twice."""
    counts = Counter(
        word.lower()
        for entry in entries
        for word in (
            *(*entry.english, *entry.held_out_english),
            *(*entry.chinese, *entry.held_out_chinese),
        )
    )
    if twice := [word for word, count in counts.items() if count > 1]:
        raise LexiconError(f"{TABLE.name} and concepts.tsv have words twice: {', '.join(twice)}.")


@cache
def read() -> list[Entry]:
    """Reads and checks the lexicon, in the order of the table of concepts.

    Raises:
        LexiconError: A rule is broken.
    """
    table, rows, known = concepts.read(), _rows(TABLE, COLUMNS), habitats()
    _check(rows, table)
    entries = [
        _entry(concept, row, known[row["habitat"]])
        for concept, row in zip(table, rows, strict=True)
    ]
    _check_words(entries)
    return entries


def words_of_all() -> set[str]:
    """Returns all words of all entries in lower case, the held-out ones included."""
    return {
        word.lower()
        for entry in read()
        for word in (
            *(*entry.english, *entry.held_out_english),
            *(*entry.chinese, *entry.held_out_chinese),
        )
    }
