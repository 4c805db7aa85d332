"""The page's own parts: names nobody has twice, text that stays text, two languages alike."""

from __future__ import annotations

import re
import string
from datetime import datetime, timedelta

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from wuliart_client import Adapter, AdapterState, Unavailable
from wuliart_client._failures import BY_REASON
from wuliart_contract.status import Reason
from wuliart_web import failures, viewer, words
from wuliart_web.adapters import Known
from wuliart_web.images import KEPT, Images
from wuliart_web.page import _notes, _step_label, labelled

NOON = datetime(2026, 11, 24, 12, 0, 0, 123)


def test_names_of_one_second_go_on_with_the_next() -> None:
    images = Images(now=lambda: NOON)
    names = [images.add(b"x").rsplit("/", 1)[1] for _ in range(3)]
    assert names == ["20261124_120000.jpg", "20261124_120001.jpg", "20261124_120002.jpg"]


def test_a_clock_that_goes_back_repeats_no_name() -> None:
    times = iter([NOON, NOON - timedelta(hours=1)])
    images = Images(now=lambda: next(times))
    assert len({images.add(b"x").rsplit("/", 1)[1] for _ in range(2)}) == 2


def test_who_has_the_address_gets_the_file_and_nobody_else() -> None:
    images = Images(now=lambda: NOON)
    app = FastAPI()
    app.include_router(images.router())
    browser = TestClient(app)
    address = images.add(b"\xff\xd8image")
    answer = browser.get(address)
    assert (answer.status_code, answer.content) == (200, b"\xff\xd8image")
    assert answer.headers["content-type"] == "image/jpeg"
    assert 'filename="20261124_120000.jpg"' in answer.headers["content-disposition"]
    assert "private" in answer.headers["cache-control"]
    _, _, token, name = address.split("/")
    assert len(token) >= 20
    assert browser.get(f"/images/{token[:-1]}/{name}").status_code == 404
    for _ in range(KEPT):
        images.add(b"y")
    assert browser.get(address).status_code == 404


def test_markup_is_shown_as_text() -> None:
    evil = '"><script>alert(1)</script>'
    for html in (
        viewer.view(evil),
        viewer.note(evil),
        viewer.preview("data:x", evil),
        viewer.image("/a/b.jpg", evil, evil, evil),
        viewer.tools("/a/b.jpg", {"save": evil, "whole": evil}),
        viewer.strip([(0, "/a/b.jpg", evil)], evil),
    ):
        assert "<script" not in html and '"">' not in html.replace(' alt=""', "")
        assert "alert(1)" in html


def test_two_adapters_of_one_title_are_told_apart() -> None:
    def adapter(name: str, title: str) -> Adapter:
        return Adapter(name, title, (), 4, 1, "", AdapterState.RESIDENT, "", 1, None)

    found = labelled(
        [adapter("a", "Neon"), adapter("b", "Neon"), adapter("c", "Ink"), adapter("d", "")]
    )
    assert found == [("Neon (a)", "a"), ("Neon (b)", "b"), ("Ink", "c"), ("d", "d")]


@pytest.mark.parametrize("reason", [None, *BY_REASON])
@pytest.mark.parametrize("said", [words.SPOKEN_ENGLISH, words.SPOKEN_CHINESE])
def test_every_failure_has_words_that_say_what_to_do(
    reason: Reason | None, said: dict[str, str]
) -> None:
    kind = Unavailable if reason is None else BY_REASON[reason]
    told = failures.told(kind("it is so.", reason and reason.value), said)
    assert "{" not in told and ".." not in told
    assert re.search("again|goes on|then generate|再绘制|自动继续|再绘制一次", told), told


@pytest.mark.parametrize(
    ("english", "chinese"),
    [(words.ENGLISH, words.CHINESE), (words.SPOKEN_ENGLISH, words.SPOKEN_CHINESE)],
)
def test_both_languages_say_the_same_things(
    english: dict[str, str], chinese: dict[str, str]
) -> None:
    def fields(text: str) -> set[str | None]:
        return {field for _, field, _, _ in string.Formatter().parse(text) if field}

    assert english.keys() == chinese.keys()
    for key in english:
        assert fields(english[key]) == fields(chinese[key]), key


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", words.SPOKEN_CHINESE),
        ("en-GB,zh;q=0.5", words.SPOKEN_ENGLISH),
        ("", words.SPOKEN_ENGLISH),
    ],
)
def test_the_browser_says_which(header: str, expected: dict[str, str]) -> None:
    assert words.spoken(header) is expected


@pytest.mark.parametrize("said", [words.SPOKEN_ENGLISH, words.SPOKEN_CHINESE])
def test_a_file_that_is_waited_for_is_shown_with_its_reason(said: dict[str, str]) -> None:
    def adapter(state: AdapterState, refusal: str = "", waiting: str = "") -> Adapter:
        return Adapter(
            state.value, "", (), 4, 1, "", state, refusal, 1, None, waiting_reason=waiting
        )

    known = Known(
        (
            adapter(AdapterState.WAITING, waiting="aria2 is not finished."),
            adapter(AdapterState.RESIDENT, waiting="it is open"),
            adapter(AdapterState.AVAILABLE),
            adapter(AdapterState.REFUSED, "it is truncated", "it is open"),
        )
    )
    notes = _notes(known, said)
    assert [note.count("aria2 is not finished") for note in notes] == [0, 1, 0, 0]
    assert ["resident" in note for note in notes] == [False, False, True, False]
    assert sum("it is open" in note for note in notes) == 2 and "truncated" in notes[0]
    assert not any(".." in note or "{" in note for note in notes)


def test_steps_are_named_by_what_the_schedule_was_made_for() -> None:
    def labels(counts: range) -> list[str]:
        return [_step_label(n, counts, words.SPOKEN_ENGLISH) for n in counts]

    four = ["1 · rough", "2 · draft", "3 · preview", "4 · production"]
    assert labels(range(1, 5)) == four
    assert labels(range(1, 3)) == ["1 · rough", "2 · production"]
    assert labels(range(2, 3)) == ["2 · production"]
    assert labels(range(1, 9))[3:] == ["4", "5", "6 · draft", "7 · preview", "8 · production"]


def test_what_the_server_warns_of_is_on_the_page() -> None:
    known = Known(warnings=("no few-step LoRA is given",))
    assert _notes(known, words.SPOKEN_ENGLISH)[0] == "From the server: no few-step LoRA is given."
