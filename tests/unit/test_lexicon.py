"""Tests of the lexicon: words, held-out words, settings, colours and plurals of all subjects."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from training.data import concepts
from training.data.prose import lexicon
from training.data.prose.lexicon import LexiconError
from training.data.prose.plurals import plural
from training.data.scenes import words

ENTRIES = lexicon.read()
BY_NAME = {entry.concept.english: entry for entry in ENTRIES}


def test_entries_follow_the_table_of_concepts() -> None:
    assert [entry.concept for entry in ENTRIES] == concepts.read()
    for entry in ENTRIES:
        assert entry.english[0] == entry.concept.english
        assert entry.chinese[0] == entry.concept.chinese


def test_every_subject_has_three_or_more_settings_that_exist() -> None:
    scenes = words.read()
    for entry in ENTRIES:
        assert 3 <= len(entry.settings) <= 6, entry.concept.english
        assert set(entry.settings) <= set(scenes)
        assert len(set(entry.settings)) == len(entry.settings)


def _trained() -> set[str]:
    return {word.lower() for entry in ENTRIES for word in entry.english + entry.chinese}


def _held_out() -> list[str]:
    return [w for e in ENTRIES for w in e.held_out_english + e.held_out_chinese]


def test_every_word_leads_to_one_concept() -> None:
    everything = [w.lower() for e in ENTRIES for w in e.english + e.chinese]
    everything += [word.lower() for word in _held_out()]
    assert len(set(everything)) == len(everything)
    for word, name in {
        "puppy": "dog",
        "lorry": "semi truck",
        "轿车": "car",
        "queen": "princess",
    }.items():
        assert word in BY_NAME[name].english + BY_NAME[name].chinese


def test_words_are_written_in_their_language() -> None:
    for entry in ENTRIES:
        for word in entry.english + entry.held_out_english:
            assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9' .-]*", word), word
        for word in entry.chinese + entry.held_out_chinese:
            assert word in ("CD", "DNA") or re.search(r"[\u4e00-\u9fff]", word), word


def test_held_out_words_are_many_and_never_trained() -> None:
    assert not _trained() & {word.lower() for word in _held_out()}
    english = sum(len(entry.held_out_english) for entry in ENTRIES)
    chinese = sum(len(entry.held_out_chinese) for entry in ENTRIES)
    assert english >= 150 and chinese >= 100
    for entry in ENTRIES:
        tags = entry.concept.english_tags + entry.concept.chinese_tags
        assert not set(tags) & set(entry.held_out_english + entry.held_out_chinese)
    assert {"golden retriever"} <= set(BY_NAME["dog"].held_out_english)
    assert {"labrador retriever"} <= set(BY_NAME["dog"].english)


def test_no_added_word_names_a_setting() -> None:
    settings = {w for s in words.read().values() for w in s.english + s.chinese}
    for entry in ENTRIES:
        concept = entry.concept
        usual = (1 + len(concept.english_tags), 1 + len(concept.chinese_tags))
        added = entry.english[usual[0] :] + entry.chinese[usual[1] :]
        assert not settings & {*added, *entry.held_out_english, *entry.held_out_chinese}


def test_what_makes_sense_in_a_colour_is_marked() -> None:
    for name in ("car", "balloon", "rose", "top hat", "bird", "house", "heart", "notebook"):
        assert BY_NAME[name].paintable, name
    for name in ("fox", "rainbow", "tangerine", "man", "sun", "slice of pizza"):
        assert not BY_NAME[name].paintable, name


def test_settings_suit_the_subject() -> None:
    assert BY_NAME["fish"].settings[0] == "underwater"
    assert BY_NAME["car"].settings[0] == "road"
    assert BY_NAME["red apple"].settings[0] == "table"
    assert BY_NAME["rocket"].settings[0] == "space"


@pytest.mark.parametrize(
    "name, expected",
    [
        ("fox", "foxes"),
        ("sheep", "sheep"),
        ("wolf", "wolves"),
        ("butterfly", "butterflies"),
        ("monkey", "monkeys"),
        ("glass of milk", "glasses of milk"),
        ("bow and arrow", "bows and arrows"),
        ("sun behind a cloud", "suns behind a cloud"),
        ("snowman", "snowmen"),
        ("old woman", "old women"),
        ("human", "humans"),
        ("firefighter", "firefighters"),
    ],
)
def test_plurals(name: str, expected: str) -> None:
    assert plural(name) == expected


def test_a_lexicon_that_does_not_fit_the_table_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = lexicon.TABLE.read_text(encoding="utf-8").splitlines()
    changed = {
        "row 2": [*lines[:2], *lines[3:]],
        "no habitat": [lines[0], lines[1].replace("\t", "\tbank", 1), *lines[2:]],
    }
    for message, rows in changed.items():
        path = tmp_path / "lexicon.tsv"
        path.write_text("\n".join(rows) + "\n", encoding="utf-8")
        monkeypatch.setattr(lexicon, "TABLE", path)
        with pytest.raises(LexiconError, match=message):
            lexicon.read.__wrapped__()
