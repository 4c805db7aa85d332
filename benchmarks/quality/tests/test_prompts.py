"""Tests of the fixed prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.quality import prompts, series
from benchmarks.quality.prompts import GROUPS, Prompt
from training.data import concepts
from training.data.prose.description import Description, Subject
from training.data.scenes import SETTINGS

SIZES = {
    **{"bare": 200, "prose": 200, "old": 100, "scenes": 100, "two": 100, "counts": 60},
    **{"relations": 80, "paints": 60, "sizes": 40, "lights": 60, "synonyms": 100},
    **{"unknown": 60, "nonsense": 60, "typos": 60, "mixed": 40, "own": 100},
}
UNJUDGED = ("unknown", "nonsense", "own")


@pytest.mark.parametrize("group", GROUPS)
def test_every_group_is_whole_and_says_what_is_expected(group: str) -> None:
    found = prompts.read(group)
    assert len(found) == SIZES[group]
    assert all((p.shown is None) == (group in UNJUDGED) for p in found)
    assert all(p.text for p in found if group != "nonsense")


@pytest.mark.parametrize("group", ["bare", "prose", "old", "scenes", "two", "relations"])
def test_both_languages_share_description_and_seed(group: str) -> None:
    found = prompts.read(group)
    english, chinese = found[::2], found[1::2]
    assert {p.language for p in english} == {"en"} and {p.language for p in chinese} == {"zh"}
    assert [(p.seed, p.shown) for p in english] == [(p.seed, p.shown) for p in chinese]


def test_the_scenes_are_all_settings() -> None:
    shown = [p.shown for p in prompts.read("scenes")]
    assert {s.setting for s in shown if s} == set(SETTINGS)


def test_a_saved_group_reads_the_same(tmp_path: Path) -> None:
    fox, owl = concepts.read()[:2]
    kept = [
        Prompt("a fox", "en", 7, Description((Subject(fox, 3, paint="red"),), setting="snow")),
        Prompt("狐狸", "zh", 8, Description((Subject(fox), Subject(owl)), "above", ground=0)),
        Prompt("", "en", 9),
    ]
    prompts.save("some", kept, tmp_path)
    assert prompts.read("some", tmp_path) == kept


def test_the_table_takes_from_each_group_in_turn() -> None:
    groups = {name: prompts.read(name) for name in GROUPS}
    taken = series.in_turn(groups, 12)
    assert taken[:6] == [groups[name][0] for name in series.TABLE_GROUPS]
    assert taken[6:] == [groups[name][1] for name in series.TABLE_GROUPS]


def test_a_limit_takes_a_prefix_of_each_group_but_the_sheet_is_whole() -> None:
    planned = series.plan(series.Counts(group=6, table=4, style=2), ["ink"])
    assert [p for p, _ in planned["bare"]] == prompts.read("bare")[:6]
    assert len(planned["own"]) == 100 and len(planned["ink"]) == 2
    assert {spec.steps for _, spec in planned["Turbo, 2 steps"]} == {2}
    assert {spec.variant for _, spec in planned["base, 20 steps"]} == {"stock"}
    assert len({spec.seed for _, spec in planned["seeds"]}) == series.TEN


def test_languages_are_compared_on_the_same_descriptions_and_seeds() -> None:
    planned = series.plan(series.Counts(group=7, table=4, style=2), [])
    english, chinese = series.languages(planned, 4)
    assert len(english) == len(chinese) == 4
    assert {p.language for p, _ in english} == {"en"} and {p.language for p, _ in chinese} == {"zh"}
    assert [(p.seed, p.shown) for p, _ in english] == [(p.seed, p.shown) for p, _ in chinese]
    assert english[0] == planned["bare"][0] and english[1] == planned["prose"][0]
