"""Tests of the lexicon: words, held-out words, settings, colours and plurals of all subjects."""

from __future__ import annotations

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
