"""The lists from which captions are composed: templates.en.tsv and templates.zh.tsv.

A row holds the name of a list and one of its texts. Every seventh text of a list is held out: it
occurs in no training caption, and captions for tests are composed of such texts only.
"""

from __future__ import annotations

import csv
import re
from collections import defaultdict
from pathlib import Path

FOLDER = Path(__file__).parent
COLUMNS = ("list", "text")
HELD_OUT_EVERY = 7

Lists = dict[str, tuple[str, ...]]


def read(language: str) -> dict[str, tuple[str, ...]]:
    """Returns all texts by the name of their list, in the order of the file.

    Raises:
        ValueError: A row is not a list's name and a text, or a text occurs twice in its list.
    """
    path = FOLDER / f"templates.{language}.tsv"
    table: dict[str, list[str]] = defaultdict(list)
    with path.open(newline="", encoding="utf-8") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        if tuple(next(reader)) != COLUMNS:
            raise ValueError(f"{path} does not have the columns {COLUMNS}.")
        for row in reader:
            if len(row) != 2 or not all(row) or row[1] in table[row[0]]:
                raise ValueError(f"{path}, line {reader.line_num}: {row} is incomplete or a copy.")
            table[row[0]].append(row[1])
    return {name: tuple(texts) for name, texts in table.items()}


def split(texts: tuple[str, ...], *, held_out: bool) -> tuple[str, ...]:
    """Returns the texts for training or those held out of it; all of a list under seven texts."""
    if len(texts) < HELD_OUT_EVERY:
        return texts
    last = HELD_OUT_EVERY - 1
    return tuple(t for i, t in enumerate(texts) if (i % HELD_OUT_EVERY == last) == held_out)


def lists(language: str, *, held_out: bool) -> Lists:
    """Returns one side of all lists of a language.

    A list "x" of sentences that name a place by " {w}" also makes a list "x open" of those
    without; what stands in "x placed" and "x open" itself joins the one or the other only.
    """
    chosen = {name: split(texts, held_out=held_out) for name, texts in read(language).items()}
    for name in [name for name in chosen if f"{name} placed" in chosen]:
        both = chosen.pop(name)
        opened = tuple(text.replace(" {w}", "") for text in both)
        chosen[f"{name} placed"] = both + chosen[f"{name} placed"]
        chosen[f"{name} open"] = opened + chosen.get(f"{name} open", ())
    return chosen


def media() -> frozenset[str]:
    """Returns the English phrases that name a medium or say nothing, in lower case: "portrait"."""
    table = read("en")
    texts = (text for name in ("medium", "bare medium", "x") for text in table[name])
    return frozenset(re.sub(r"^an? ", "", text.lower()) for text in texts)
