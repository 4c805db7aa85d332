"""Chooses the noun by which a caption names a subject."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from training.data.captions import COLOURS
from training.data.prose.description import Subject
from training.data.prose.drawing import pick
from training.data.prose.lexicon import Entry
from training.data.prose.paints import PAINTS
from training.data.prose.speech import LIGHTS, SETTINGS

KIND_SHARE = 0.15
SYNONYM_SHARE = 0.45
"""Shares of subjects named by a word outside the lexicon, and by one of its other words."""

_COLOURS = {word for colour in COLOURS for word in colour.english}
_COLOURS |= {word for paint in PAINTS.values() for word in paint.english}
_COLOUR = re.compile(rf"\b({'|'.join(sorted(_COLOURS | {'golden', 'silver'}))})\b", re.IGNORECASE)
_CHINESE_COLOUR = re.compile("[红橙黄绿蓝紫粉棕黑白灰金银青]")
_PLACES = {
    word
    for entry in (*SETTINGS.values(), *LIGHTS.values())
    for word in (*entry.english, *entry.chinese)
}


@dataclass(frozen=True, slots=True)
class Names:
    """Nouns for one concept in one language; `usual` is also the last resort."""

    usual: str
    synonyms: tuple[str, ...]
    kinds: tuple[str, ...]
    held_out: tuple[str, ...]

    def only(self, suits: re.Pattern[str]) -> Names:
        """The names in which the pattern does not occur; the usual one stays if none is left."""
        kept = tuple(name for name in self.synonyms if not suits.search(name))
        kinds = tuple(name for name in self.kinds if not suits.search(name))
        held_out = tuple(name for name in self.held_out if not suits.search(name))
        usual = self.usual
        if suits.search(usual) and kept:
            usual, *rest = kept
            kept = tuple(rest)
        return Names(usual, kept, kinds, held_out)


def _names(
    words: Sequence[str], kinds: Iterable[str], held_out: tuple[str, ...], taken: frozenset[str]
) -> Names:
    """Names without those that mean something else in a caption: "desert", "picture"."""
    usual, *others = words
    free = [word for word in others if word.lower() not in taken]
    if usual.lower() in taken and free:
        usual, *free = free
    return Names(usual, tuple(free), tuple(k for k in kinds if k.lower() not in taken), held_out)


class Naming:
    """Nouns of all concepts.

    Args:
        entries: The lexicon.
        kinds: English nouns outside it by the row of their concept.
        taken: Words that captions use in another sense.
    """

    def __init__(
        self,
        entries: Sequence[Entry],
        kinds: Mapping[int, Sequence[str]],
        taken: frozenset[str],
    ) -> None:
        taken |= {word.lower() for word in _PLACES}
        self._names: dict[tuple[str, str, bool], Names] = {}
        for row, entry in enumerate(entries):
            code = entry.concept.code
            english = _names(entry.english, kinds.get(row, ()), entry.held_out_english, taken)
            chinese = _names(entry.chinese, (), entry.held_out_chinese, taken)
            self._names["en", code, False] = english
            self._names["zh", code, False] = chinese
            self._names["en", code, True] = english.only(_COLOUR)
            self._names["zh", code, True] = chinese.only(_CHINESE_COLOUR)

    def name(
        self, subject: Subject, language: str, rng: random.Random, *, held_out: bool = False
    ) -> str:
        """Returns a noun in the singular.

        Args:
            subject: Its paint rules out nouns that name a colour.
            language: Of the noun.
            rng: The only source of chance.
            held_out: Prefers words that training never shows.
        """
        names = self._names[language, subject.concept.code, subject.paint is not None]
        if held_out and names.held_out:
            return pick(rng, names.held_out)
        chance = rng.random()
        if chance < KIND_SHARE and names.kinds:
            return pick(rng, names.kinds)
        if KIND_SHARE < chance < KIND_SHARE + SYNONYM_SHARE and names.synonyms:
            return pick(rng, names.synonyms)
        return names.usual
