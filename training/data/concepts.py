"""The table of concepts that images can show, named in English and Chinese: concepts.tsv.

`select_concepts` writes the file; all other modules read it.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).with_name("concepts.tsv")
SET_NAMES = ("fluent", "flat", "contrast", "noto")
KINDS = ("one", "some", "the")
COLUMNS = (
    *("code", "emoji", "group", "kind", "english", "english_tags"),
    *("chinese", "chinese_tags", "measure"),
    *SET_NAMES,
)
MAX_TAGS = 4


class TableError(ValueError):
    """concepts.tsv breaks its rules; the message lists every violation."""


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing that an image can show.

    Attributes:
        code: Code points as in emojibase ("1F98A"), the key in all files.
        emoji: The emoji itself.
        group: Name of its group in choices.txt.
        kind: Article of the English name and its tags: "one" takes a/an, "some" none (plurals
            and mass nouns), "the" takes "the".
        english: English name.
        english_tags: Other English names of the same thing.
        chinese: Chinese name.
        chinese_tags: Other Chinese names of the same thing.
        measure: Chinese measure word ("只"), empty where none is certain.
        icons: Name of the icon in each set.
    """

    code: str
    emoji: str
    group: str
    kind: str
    english: str
    english_tags: tuple[str, ...]
    chinese: str
    chinese_tags: tuple[str, ...]
    measure: str
    icons: dict[str, str]


def _row(concept: Concept) -> list[str]:
    return [
        concept.code,
        concept.emoji,
        concept.group,
        concept.kind,
        concept.english,
        ",".join(concept.english_tags),
        concept.chinese,
        ",".join(concept.chinese_tags),
        concept.measure,
        *(concept.icons[name] for name in SET_NAMES),
    ]


def check(concepts: Iterable[Concept]) -> None:
    """Checks that codes and names are unique, and tags, kinds, and icons valid.

    Raises:
        TableError: A rule is broken; the message lists all violations.
    """
    concepts = list(concepts)
    wrong = []
    for what in ("code", "english", "chinese"):
        counts = Counter(getattr(c, what).lower() for c in concepts)
        wrong += [f"{what} {value!r} occurs {n} times" for value, n in counts.items() if n > 1]
    english = {c.english.lower() for c in concepts}
    chinese = {c.chinese for c in concepts}
    taken: Counter[str] = Counter(
        tag.lower() for c in concepts for tag in c.english_tags + c.chinese_tags
    )
    for c in concepts:
        tags = c.english_tags + c.chinese_tags
        wrong += [
            f"{c.english}: tag {tag!r} also names another concept"
            for tag in tags
            if tag.lower() in english or tag in chinese or taken[tag.lower()] > 1
        ]
        if max(len(c.english_tags), len(c.chinese_tags)) > MAX_TAGS:
            wrong.append(f"{c.english}: more than {MAX_TAGS} tags in a language")
        if c.kind not in KINDS:
            wrong.append(f"{c.english}: kind {c.kind!r} is none of {', '.join(KINDS)}")
        if not (c.english.isascii() and c.english and c.chinese):
            wrong.append(f"{c.code}: a name is missing or not ASCII English ({c.english!r})")
        if set(c.icons) != set(SET_NAMES) or not all(c.icons.values()):
            wrong.append(f"{c.english}: icons {c.icons} are not one in each of {SET_NAMES}")
    if wrong:
        raise TableError("concepts.tsv breaks its rules:\n  " + "\n  ".join(wrong))


def write(concepts: Iterable[Concept], path: Path = TABLE) -> None:
    """Checks and writes the table.

    Raises:
        TableError: A rule is broken; nothing is written.
    """
    concepts = list(concepts)
    check(concepts)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(_row(c) for c in concepts)


def read(path: Path = TABLE) -> list[Concept]:
    """Reads and checks the table.

    Raises:
        TableError: A rule is broken.
    """
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file, delimiter="\t")
        if tuple(reader.fieldnames or ()) != COLUMNS:
            raise TableError(f"{path} has columns {reader.fieldnames}, not {COLUMNS}.")
        concepts = [
            Concept(
                code=row["code"],
                emoji=row["emoji"],
                group=row["group"],
                kind=row["kind"],
                english=row["english"],
                english_tags=tuple(filter(None, row["english_tags"].split(","))),
                chinese=row["chinese"],
                chinese_tags=tuple(filter(None, row["chinese_tags"].split(","))),
                measure=row["measure"],
                icons={name: row[name] for name in SET_NAMES},
            )
            for row in reader
        ]
    check(concepts)
    return concepts
