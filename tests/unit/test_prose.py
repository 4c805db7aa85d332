"""Captions in people's own words tell the description, and nothing else."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Iterable
from functools import cache

import pytest

from training.data.captions import COLOURS
from training.data.prose import lexicon, templates
from training.data.prose.description import Description, Subject
from training.data.prose.drawing import draw
from training.data.prose.noise import typed
from training.data.prose.paints import PAINTS
from training.data.prose.plurals import plural
from training.data.prose.writing import Writer, write
from training.data.scenes import words

ENTRIES = lexicon.read()
BY_CODE = {entry.concept.code: entry for entry in ENTRIES}
BY_NAME = {entry.concept.english: entry for entry in ENTRIES}
SETTINGS, LIGHTS = words.read(), words.read(words.LIGHTS_TABLE)
WRITER = Writer(ENTRIES, {})
LANGUAGES = ("en", "zh")
SIDES_OF_LISTS = list(itertools.product(LANGUAGES, (False, True)))
MANY = 10_000
"""Captions per language."""

NUMBERS = {
    2: ("two", "2", "2x", "x2", "pair", "couple", "两", "对"),
    3: ("three", "3", "3x", "x3", "trio", "三"),
    4: ("four", "4", "4x", "x4", "四"),
}
SOME = ("some", "a few", "several", "many", "几", "好几", "一些", "一群")
LEVEL = {"left of", "right of"}
RELATION_WORDS = {
    "next to": re.compile("next to|beside|by|near|alongside|side|close to|adjacent|旁|挨|并排"),
    "left of": re.compile("left|right|左|右"),
    "right of": re.compile("left|right|左|右"),
    "above": re.compile("above|over|on top|below|under|beneath|bottom|上|下"),
    "below": re.compile("above|over|on top|below|under|beneath|bottom|上|下"),
}
IDIOMS = frozenset(
    {
        *("photo", "picture", "painting", "oil painting", "portrait", "pencil", "crayon", "emoji"),
        *("storybook", "award", "dslr", "camera", "palette", "book", "key", "ring", "polaroid"),
        *("smile", "油画", "水彩", "蜡笔", "铅笔", "画笔", "油画笔", "单反", "相机"),
    }
)
"""Names of concepts that stand in phrases about the medium and its tools: "oil painting"."""


def _forms(subject: Subject) -> list[str]:
    entry = BY_CODE[subject.concept.code]
    names = [*entry.english, *entry.held_out_english, *entry.chinese, *entry.held_out_chinese]
    if subject.count > 1:
        names += [plural(name) for name in names if name.isascii()]
    return names


def _size_words(size: str) -> list[str]:
    lists = {**templates.read("en"), **{f"zh {k}": v for k, v in templates.read("zh").items()}}
    found = [*lists[f"size {size}"], *lists[f"zh size {size}"], *lists[f"zh tail {size}"]]
    return found + [text.replace("{0}", "").strip(" ,") for text in lists[f"size after {size}"]]


def _words(table: dict[str, words.Words], key: str) -> list[str]:
    """Names and places, shorter ones only after the longer ones they are part of."""
    row = table[key]
    cells = (row.english, row.english_places, row.chinese, row.chinese_places)
    found = [word.removeprefix("floating ") for cell in cells for word in cell]
    return sorted(found, key=len, reverse=True)


@cache
def _side_words(side: str) -> tuple[str, ...]:
    return (*templates.read("en")[f"side {side}"], *templates.read("zh")[f"side {side}"])


def _colour_words(description: Description) -> list[str]:
    found: list[str] = []
    for subject in description.subjects:
        if subject.paint is not None:
            found += PAINTS[subject.paint].english + PAINTS[subject.paint].chinese
    if description.ground is not None:
        found += COLOURS[description.ground].english + COLOURS[description.ground].chinese
    return found


def _facts(description: Description) -> dict[str, Iterable[str]]:
    """For each thing that the description states, the words one of which a caption must have."""
    facts: dict[str, Iterable[str]] = {}
    for subject in description.subjects:
        facts[subject.concept.english] = _forms(subject)
        if subject.count > 1:
            # A plural without a number is one of several, too.
            bare = [plural(name) for name in _forms(subject) if name.isascii()]
            facts["count"] = [*NUMBERS[subject.count], *SOME, *bare]
        if subject.paint is not None:
            facts["paint"] = PAINTS[subject.paint].english + PAINTS[subject.paint].chinese
        if subject.size is not None:
            facts["size"] = _size_words(subject.size)
    if description.setting is not None:
        facts["setting"] = _words(SETTINGS, description.setting)
    if description.light is not None:
        facts["light"] = [*_words(LIGHTS, description.light), description.light]
    if description.ground is not None:
        ground = COLOURS[description.ground]
        facts["ground"] = ground.english + ground.chinese
    if description.side is not None:
        facts["side"] = _side_words(description.side)
    return facts


def _has(text: str, word: str) -> bool:
    """True if a text in lower case has the word as a whole."""
    word = word.lower()
    at = text.find(word)
    while at >= 0 and word.isascii():
        around = text[at - 1 : at] + text[at + len(word) : at + len(word) + 1]
        if not re.search("[a-z0-9]", around):
            return True
        at = text.find(word, at + 1)
    return at >= 0


def _captions(language: str, *, held_out: bool) -> Iterable[tuple[Description, str]]:
    rng = random.Random(f"{language} {held_out}")
    for _ in range(MANY // 2):
        description = draw(rng, ENTRIES)
        text = WRITER.write(
            description, language, rng, held_out=held_out, held_out_words=held_out, mistyped=False
        )
        yield description, text.lower()


@pytest.mark.parametrize("language, held_out", SIDES_OF_LISTS)
def test_captions_name_all_that_is_stated(language: str, held_out: bool) -> None:
    for description, text in _captions(language, held_out=held_out):
        for fact, choices in _facts(description).items():
            assert any(_has(text, word) for word in choices), (fact, text, description)
        if description.relation is not None:
            assert RELATION_WORDS[description.relation].search(text), (text, description)
        assert "  " not in text and "{" not in text, text


FOREIGN_COLOURS = {word for c in COLOURS for word in c.english} | {
    word for paint in PAINTS.values() for word in paint.english
}
ZH_COLOURS = {word for c in COLOURS for word in c.chinese if word.endswith("色")}
POSITIONS = ("left", "right", "middle", "center", "centre", "左", "右", "中央", "正中")


def _remainder(description: Description, text: str) -> str:
    """The caption without all words that the description accounts for."""
    known = [word for choices in _facts(description).values() for word in choices]
    for word in sorted({word for word in known if word.lower() in text}, key=len, reverse=True):
        if word.isascii():
            text = re.sub(rf"(?<![a-z0-9]){re.escape(word.lower())}(?![a-z0-9])", " | ", text)
        else:
            text = text.replace(word.lower(), "|")
    return text


@pytest.mark.parametrize("language, held_out", SIDES_OF_LISTS)
def test_captions_say_nothing_that_contradicts(language: str, held_out: bool) -> None:
    colours = FOREIGN_COLOURS if language == "en" else ZH_COLOURS
    scenes = [w for table in (SETTINGS, LIGHTS) for key in table for w in _words(table, key)]
    scenes = [word for word in scenes if len(word) > 1 and word.isascii() == (language == "en")]
    for description, text in _captions(language, held_out=held_out):
        if description == Description():
            continue
        rest = _remainder(description, text)
        found = [word for word in (*colours, *scenes) if _has(rest, word)]
        if description.relation not in LEVEL and description.side is None:
            found += [word for word in POSITIONS if _has(rest, word)]
        assert not found, (found, text, description)


def test_distractors_name_no_colour_setting_light_count_size_or_subject() -> None:
    numbers = {"two", "three", "four", "pair", "couple", "trio", "both", "2", "3"}
    sizes = {"small", "tiny", "little", "mini", "big", "large", "huge", "giant", "close-up"}
    names = {name for entry in ENTRIES for name in (*entry.english, *entry.chinese)}
    scenes = {w for table in (SETTINGS, LIGHTS) for key in table for w in _words(table, key)}
    forbidden = numbers | sizes | names | scenes | FOREIGN_COLOURS | ZH_COLOURS | set(POSITIONS)
    forbidden = {word for word in forbidden if len(word) > 1 or word.isascii()} - IDIOMS
    for language in LANGUAGES:
        for name, texts in templates.read(language).items():
            if name.partition(" ")[0] in ("x", "fragment", "extra", "adjective", "nothing"):
                found = [(t, w) for t in texts for w in forbidden if _has(t.lower(), w.lower())]
                assert not found, name


@pytest.mark.parametrize("language", LANGUAGES)
def test_left_and_right_and_above_and_below_are_told_apart(language: str) -> None:
    crab, lobster = (Subject(BY_NAME[name].concept) for name in ("crab", "lobster"))

    def texts(first: Subject, relation: str, second: Subject) -> set[str]:
        rng = random.Random(4)
        description = Description((first, second), relation, ground=3)
        return {WRITER.write(description, language, rng, mistyped=False) for _ in range(6000)}

    for one, other in (("left of", "right of"), ("above", "below")):
        straight, swapped, against = (
            texts(crab, one, lobster),
            texts(lobster, other, crab),
            texts(lobster, one, crab),
        )
        assert len(straight & swapped) > 30
        assert not straight & against


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_templates_are_no_templates_of_training(language: str) -> None:
    training = templates.lists(language, held_out=False)
    held_out = templates.lists(language, held_out=True)
    assert set(training) == set(held_out)
    table = templates.read(language)
    for name, texts in training.items():
        assert texts and held_out[name]
        shared = set(texts) & set(held_out[name])
        assert not shared or len(table[name]) < templates.HELD_OUT_EVERY, name


@pytest.mark.parametrize("language", LANGUAGES)
def test_held_out_words_occur_in_captions_with_them_only(language: str) -> None:
    entries = [e for e in ENTRIES if e.held_out_english and e.held_out_chinese][:60]
    rng = random.Random(2)
    for entry in entries:
        secret = entry.held_out_english if language == "en" else entry.held_out_chinese
        trained = entry.english if language == "en" else entry.chinese
        # Short words are parts of others, and 一串葡萄 is composed with the measure word, too.
        secret = tuple(
            word
            for word in secret
            if len(word) > 2 and word[0] != "一" and not any(word in other for other in trained)
        )
        description = Description((Subject(entry.concept),))
        for _ in range(20):
            text = WRITER.write(description, language, rng, mistyped=False)
            assert not any(_has(text.lower(), w) for w in secret), (text, secret)
        captions = [
            WRITER.write(description, language, rng, held_out_words=True, mistyped=False)
            for _ in range(9)
        ]
        choices = (*entry.held_out_english, *entry.held_out_chinese)
        assert all(any(_has(text.lower(), w) for w in choices) for text in captions)


def test_lengths_go_from_one_word_to_seventy() -> None:
    rng = random.Random(3)
    lengths = sorted(len(write(draw(rng, ENTRIES), "en", rng).split()) for _ in range(4000))
    assert sum(length <= 2 for length in lengths) > 220
    assert sum(length >= 30 for length in lengths) > 350
    assert 6 <= lengths[2000] <= 14
    assert lengths[-1] <= 90


@pytest.mark.parametrize("language", LANGUAGES)
def test_equal_states_give_equal_captions(language: str) -> None:
    def captions(seed: int) -> list[str]:
        rng = random.Random(seed)
        return [write(draw(rng, ENTRIES), language, rng) for _ in range(300)]

    assert captions(5) == captions(5)
    assert captions(5) != captions(6)


def test_the_distribution_of_descriptions_is_the_stated_one() -> None:
    rng = random.Random(1)
    drawn = [draw(rng, ENTRIES) for _ in range(MANY)]
    assert 0.02 < sum(d == Description() for d in drawn) / MANY < 0.04
    pairs = [d for d in drawn if len(d.subjects) == 2]
    assert 0.18 < len(pairs) / MANY < 0.24
    assert 0.6 < sum(d.relation is not None for d in pairs) / len(pairs) < 0.7
    several = [d for d in drawn if d.subjects and d.subjects[0].count > 1]
    assert 0.11 < len(several) / MANY < 0.15
    assert {d.setting for d in drawn} >= set(SETTINGS)


def test_a_caption_of_nothing_names_no_subject_of_the_kinds_that_are_drawn() -> None:
    writer = Writer(ENTRIES, {"en": {"gizmo": 0, "tax": None}})
    rng = random.Random(0)
    texts = {writer.write(Description(), "en", rng, mistyped=False) for _ in range(2000)}
    assert "" in texts and "tax" in texts
    assert not any("gizmo" in text for text in texts)
    monkey = Description((Subject(ENTRIES[0].concept),))
    texts = {writer.write(monkey, "en", rng, mistyped=False) for _ in range(300)}
    assert any("gizmo" in text for text in texts) and not any("tax" in text for text in texts)


def test_typing_mistakes_change_one_letter_of_a_few_long_words() -> None:
    rng = random.Random(0)
    text = "a wonderful elephant in the beautiful mountains"
    wrong = 0
    for _ in range(1000):
        for before, after in zip(text.split(), typed(text, rng).lower().split(), strict=True):
            after = after.rstrip(".!")
            assert abs(len(after) - len(before)) <= 1
            assert before == after or len(before) >= 5
            wrong += before != after
    assert 100 < wrong < 220


def test_an_unknown_language_is_named() -> None:
    with pytest.raises(ValueError, match="'fr'"):
        write(Description(), "fr", random.Random(0))
