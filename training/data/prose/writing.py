"""Writes captions of descriptions in people's own words, English and Chinese."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from functools import cache

from training.data.captions import LANGUAGES
from training.data.prose import kinds, lexicon, templates
from training.data.prose.chinese import Chinese
from training.data.prose.description import Description, Subject
from training.data.prose.english import English
from training.data.prose.lexicon import Entry
from training.data.prose.naming import Naming, names_scene
from training.data.prose.noise import typed, typed_chinese
from training.data.prose.nonsense import nonsense

MIXED_SHARE = 0.04
"""Share of captions that name subjects in the other language."""

NOTHING = Description()

Nouns = Mapping[str, int | None]
"""Nouns outside the lexicon with the row of the concept that is drawn, or None for no subject."""

_OTHER = {"en": "zh", "zh": "en"}
_BESIDE_LATIN = re.compile(r"(?<=[一-鿿])(?=[A-Za-z]{2})|(?<=[A-Za-z]{2})(?=[一-鿿])")


class Writer:
    """Writes captions with the words of a lexicon.

    Args:
        entries: The lexicon.
        nouns: Per language, nouns outside it with the row of the concept that is drawn for them, or
            None for nothing.
    """

    def __init__(self, entries: Sequence[Entry], nouns: Mapping[str, Nouns]) -> None:
        self._lists = {
            (language, held_out): templates.lists(language, held_out=held_out)
            for language in LANGUAGES
            for held_out in (False, True)
        }
        of_row: dict[tuple[str, int], list[str]] = {}
        self._subjectless: dict[str, list[str]] = {language: [] for language in LANGUAGES}
        for language, words in nouns.items():
            for word, row in words.items():
                if row is None:
                    if not names_scene(word):
                        self._subjectless[language].append(word)
                else:
                    of_row.setdefault((language, row), []).append(word)
        self._naming = Naming(entries, of_row, templates.media())

    def write(
        self,
        description: Description,
        language: str,
        rng: random.Random,
        *,
        held_out: bool = False,
        held_out_words: bool = False,
        mistyped: bool = True,
    ) -> str:
        """Returns one caption; arguments and errors as for `write` of the module.

        `mistyped=False` leaves out typing mistakes and odd capitals.
        """
        if language not in LANGUAGES:
            raise ValueError(f"There are no captions in {language!r}; choose one of {LANGUAGES}.")
        text = self._text(description, language, rng, held_out, held_out_words)
        if not mistyped:
            return text
        return typed(text, rng) if language == "en" else typed_chinese(text, rng)

    def _text(
        self,
        description: Description,
        language: str,
        rng: random.Random,
        held_out: bool,
        held_out_words: bool,
    ) -> str:
        lists = self._lists[language, held_out]
        if description == NOTHING:
            return nonsense(lists["nothing"], self._subjectless[language], rng)
        spoken = _OTHER[language] if rng.random() < MIXED_SHARE else language

        def names(subject: Subject) -> str:
            return self._naming.name(subject, spoken, rng, held_out=held_out_words)

        if language == "en":
            return English(description, names, lists, rng).caption()
        return _BESIDE_LATIN.sub(" ", Chinese(description, names, lists, rng).caption())


@cache
def _writer() -> Writer:
    return Writer(lexicon.read(), {name: kinds.read_kinds(name) for name in LANGUAGES})


def write(
    description: Description,
    language: str,
    rng: random.Random,
    *,
    held_out: bool = False,
    held_out_words: bool = False,
) -> str:
    """Returns one caption of a description, with the words of the shipped lexicon.

    Args:
        description: What the caption says; what is left open is not mentioned.
        language: One of `captions.LANGUAGES`.
        rng: The only source of chance; equal states give equal captions.
        held_out: Composes templates and phrases that no caption for training has.
        held_out_words: Names subjects by words that no caption for training has, if there are
            any.

    Raises:
        ValueError: There are no captions in the language.
    """
    return _writer().write(
        description, language, rng, held_out=held_out, held_out_words=held_out_words
    )
