"""Tests of what words outside the lexicon draw, and of reading WordNet's files."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.data import concepts
from training.data.prose import kinds, lexicon, select_kinds, wordnet
from training.data.scenes import words

NAMES = [concept.english for concept in concepts.read()]
TRAINED = kinds.read_kinds() | kinds.read_kinds("zh")
HELD_OUT = kinds.read_held_out_kinds() | kinds.read_held_out_kinds("zh")
ALL = TRAINED | HELD_OUT


@pytest.mark.parametrize(
    "word, name",
    [
        ("impala", "deer"),
        ("violinist", "singer"),
        ("hammock", "bed"),
        ("lighthouse", "Tokyo tower"),
        ("ostrich", "dodo"),
        ("dandelion", "daisy"),
        ("submarine", "ship"),
        ("sweater", "t-shirt"),
        ("freedom", None),
        ("economy", None),
        ("馒头", "loaf of bread"),
        ("钢琴家", "singer"),
        ("自由", None),
    ],
)
def test_words_draw_what_is_nearest(word: str, name: str | None) -> None:
    row = ALL[word]
    assert (None if row is None else NAMES[row]) == name


def test_there_are_thousands_in_both_languages_and_some_without_a_subject() -> None:
    assert len(ALL) > 7000
    assert len(kinds.read_kinds("zh")) > 250 and "馒头" not in kinds.read_kinds()
    assert not [word for word in kinds.read_kinds("zh") if word.isascii()]
    with pytest.raises(ValueError, match="'fr'"):
        kinds.read_kinds("fr")
    assert 0.2 < sum(row is None for row in ALL.values()) / len(ALL) < 0.4
    assert all(row is None or 0 <= row < len(NAMES) for row in ALL.values())
    assert len(set(ALL.values())) > 300


def test_about_15_percent_are_held_out_by_the_word_alone() -> None:
    assert not TRAINED.keys() & HELD_OUT.keys()
    assert 0.13 < len(HELD_OUT) / len(ALL) < 0.17
    assert all(kinds.is_held_out(word) for word in HELD_OUT)


def test_no_word_is_known_to_the_lexicon_or_names_a_setting() -> None:
    known = lexicon.words_of_all()
    for table in (words.SETTINGS_TABLE, words.LIGHTS_TABLE):
        for name, found in words.read(table).items():
            known |= {name, *found.english, *found.chinese}
    assert not known & ALL.keys()


def test_words_that_hurt_are_left_out() -> None:
    assert not ALL.keys() & {"whore", "slut", "retard", "midget", "bastard"}


DATA = """  1 This is a licence.
00000001 05 n 02 animal 0 beast 0 000 | a living thing
00000002 05 n 01 antelope 0 001 @ 00000001 n 0000 | graceful
00000003 05 n 01 gazelle 0 001 @ 00000002 n 0000 | small
00000004 05 n 01 Ladon 0 001 @i 00000001 n 0000 | a dragon
00000005 18 n 01 cur 0 002 @ 00000001 n 0000 ;u 00000006 n 0000 | a man
00000006 10 n 01 obscenity 0 000 | an offensive word
"""
INDEX = """animal%1:05:00:: 00000001 1 9
antelope%1:05:00:: 00000002 1 0
cur%1:18:00:: 00000005 1 0
gazelle%1:05:00:: 00000003 1 2
ladon%1:05:00:: 00000004 1 0
animal%3:00:00:: 00009999 1 4
"""


@pytest.fixture
def nouns(tmp_path: Path) -> wordnet.Nouns:
    (tmp_path / "dict").mkdir()
    (tmp_path / "dict" / "data.noun").write_text(DATA)
    (tmp_path / "dict" / "index.sense").write_text(INDEX)
    return wordnet.read(tmp_path)


def test_wordnet_files_are_read(nouns: wordnet.Nouns) -> None:
    assert nouns.senses["gazelle"] == ["00000003"] and nouns.uses["gazelle"] == [2]
    assert nouns.others["animal"] == 4
    assert nouns.meanings["00000001"].words == ("animal", "beast")
    assert nouns.meanings["00000003"].parents == ("00000002",)
    assert nouns.meanings["00000004"].instance and not nouns.meanings["00000003"].instance
    assert nouns.is_offensive("cur") and not nouns.is_offensive("gazelle")


def test_a_meaning_takes_the_nearest_anchor_above_it(nouns: wordnet.Nouns) -> None:
    held = {"00000001": "fox", "00000002": "deer"}
    assert select_kinds.nearest("00000003", nouns, held) == "deer"
    assert select_kinds.nearest("00000005", nouns, held) == "fox"
    assert select_kinds.nearest("00000003", nouns, {"00000002": "", "00000001": "fox"}) == ""
    assert select_kinds.nearest("00000003", nouns, {}) == ""
