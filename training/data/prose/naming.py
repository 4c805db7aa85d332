"""Chooses the noun by which a caption names a subject."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from training.data.captions import COLOURS
from training.data.prose.description import Subject
from training.data.prose.drawing import pick
from training.data.prose.lexicon import Entry
from training.data.prose.nouns import article_kind
from training.data.prose.paints import PAINTS
from training.data.prose.speech import LIGHTS, SETTINGS

KIND_SHARE = 0.15
SYNONYM_SHARE = 0.45
"""Shares of subjects named by a word outside the lexicon, and by one of its other words."""

_COLOURS = {word for colour in COLOURS for word in colour.english} | {
    *(word for paint in PAINTS.values() for word in paint.english),
    *("golden", "silver", "gold", "ginger", "dark"),
}
_COLOUR = re.compile(
    rf"\b(?:{'|'.join(sorted(_COLOURS))})\b|[红橙橘黄绿蓝紫粉棕黑白灰金银青]", re.IGNORECASE
)
_SIZE = re.compile(
    r"\b(?:little|small|tiny|mini|miniature|baby|toy|big|large|huge|giant|great|tall|grand)\b"
    r"|[小大巨迷幼微]",
    re.IGNORECASE,
)
_PLACES = frozenset(
    word.lower()
    for entry in (*SETTINGS.values(), *LIGHTS.values())
    for word in (*entry.english, *entry.chinese)
)


_SCENE_WORDS = {part for word in _PLACES if word.isascii() for part in word.split(" ")}
_SCENE_WORDS |= {part for word in _COLOURS for part in word.split(" ")}
_SCENE_SIGNS = re.compile(
    "[雪林秋草园农山漠路海滩湖河溪水天空星宇月日夕阳霞雨雾城市街房屋室厨桌台夜晚晨昏暮光色]"
)


def names_scene(word: str) -> bool:
    """True for nouns that a setting, a light or a colour might be meant by."""
    if not word.isascii():
        return _SCENE_SIGNS.search(word) is not None
    return not _SCENE_WORDS.isdisjoint(word.lower().split(" "))


@dataclass(frozen=True, slots=True)
class Names:
    """Nouns for one concept in one language.

    Attributes:
        usual: The usual one.
        synonyms: Others of the lexicon.
        kinds: Others outside the lexicon.
        held_out: Others that training never shows.
        kind: Article of the concept's name, as in `Concept`.
    """

    usual: str
    synonyms: tuple[str, ...]
    kinds: tuple[str, ...]
    held_out: tuple[str, ...]
    kind: str

    def suiting(self, subject: Subject) -> Names:
        """The names that do not gainsay the subject's paint, size or count.

        If none does, the usual one stays.
        """

        def suits(name: str) -> bool:
            return not (
                (subject.paint is not None and _COLOUR.search(name))
                or (subject.size is not None and _SIZE.search(name))
                or (subject.count > 1 and name.startswith("一"))
                or (subject.count > 1 and article_kind(name, self.kind) != "one")
            )

        kept = [name for name in (self.usual, *self.synonyms) if suits(name)] or [self.usual]
        return Names(
            kept[0],
            tuple(kept[1:]),
            tuple(filter(suits, self.kinds)),
            tuple(filter(suits, self.held_out)),
            self.kind,
        )


class Naming:
    """Nouns of all concepts.

    Args:
        entries: The lexicon.
        kinds: Nouns outside it by language and row of their concept.
        taken: Words in lower case that mean something else in a caption: "portrait". So do names
            of settings and lights. Only a concept's usual name may be one of them.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        kinds: Mapping[tuple[str, int], Sequence[str]],
        taken: frozenset[str],
    ) -> None:
        taken |= _PLACES

        def names(
            words: Sequence[str], more: Sequence[str], other: Sequence[str], kind: str
        ) -> Names:
            usual, *rest = words
            free = [
                tuple(w for w in list_ if w.lower() not in taken) for list_ in (rest, more, other)
            ]
            return Names(usual, free[0], free[1], free[2], kind)

        self._all = {}
        for row, e in enumerate(entries):
            code, kind = e.concept.code, e.concept.kind
            self._all["en", code] = names(
                e.english, kinds.get(("en", row), ()), e.held_out_english, kind
            )
            self._all["zh", code] = names(
                e.chinese, kinds.get(("zh", row), ()), e.held_out_chinese, kind
            )
        self._suiting: dict[tuple[str, str, bool, bool, bool], Names] = {}

    def name(
        self, subject: Subject, language: str, rng: random.Random, *, held_out: bool = False
    ) -> str:
        """Returns a noun in the singular.

        Args:
            subject: Its paint, size and count rule out nouns that say otherwise.
            language: Of the noun.
            rng: The only source of chance.
            held_out: Prefers words that training never shows.
        """
        code = subject.concept.code
        told = (subject.paint is not None, subject.size is not None, subject.count > 1)
        names = self._suiting.get((language, code, *told))
        if names is None:
            names = self._all[language, code].suiting(subject)
            self._suiting[(language, code, *told)] = names
        if held_out and names.held_out:
            return pick(rng, names.held_out)
        chance = rng.random()
        if chance < KIND_SHARE and names.kinds:
            return pick(rng, names.kinds)
        if KIND_SHARE < chance < KIND_SHARE + SYNONYM_SHARE and names.synonyms:
            return pick(rng, names.synonyms)
        return names.usual
