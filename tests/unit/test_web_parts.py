"""The page's parts: unique file names, escaped text, the same texts in both languages."""

from __future__ import annotations

import re
import string
from datetime import datetime, timedelta
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from wuliart_client import Adapter, AdapterState, Unavailable
from wuliart_client._failures import BY_REASON
from wuliart_contract.status import Reason
from wuliart_web.image_store import MAX_IMAGES, ImageStore
from wuliart_web.page import view
from wuliart_web.page.choices import labels, notices, step_label
from wuliart_web.page.error_texts import error_text
from wuliart_web.page.styles import styles
from wuliart_web.service_watch import ServiceState
from wuliart_web.texts import CONTROLS_EN, CONTROLS_ZH, TEXTS_EN, TEXTS_ZH, Texts, texts_for

NOON = datetime(2026, 11, 24, 12, 0, 0, 123)


def test_images_of_one_second_get_the_names_of_the_next_ones() -> None:
    images = ImageStore(now=lambda: NOON)
    names = [images.add(b"x").rsplit("/", 1)[1] for _ in range(3)]
    assert names == ["20261124_120000.jpg", "20261124_120001.jpg", "20261124_120002.jpg"]


def test_a_clock_that_goes_back_repeats_no_name() -> None:
    times = iter([NOON, NOON - timedelta(hours=1)])
    images = ImageStore(now=lambda: next(times))
    assert len({images.add(b"x").rsplit("/", 1)[1] for _ in range(2)}) == 2


def test_an_image_is_served_at_its_address_only() -> None:
    images = ImageStore(now=lambda: NOON)
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
    for _ in range(MAX_IMAGES):
        images.add(b"y")
    assert browser.get(address).status_code == 404


def style(name: str, **fields: Any) -> Adapter:
    words = fields.pop("trigger_words", ())
    return Adapter(name, name, words, 4, 1, "", AdapterState.RESIDENT, "", 1, None, **fields)


def test_pictures_of_styles_and_what_their_files_say() -> None:
    html = styles(
        [
            ("Ink", style("ink", thumbnail_hash="ab" * 32, trigger_words=("wash", "brush"))),
            ("Oil", style("oil", notes=("ignored a part.",))),
            ("Chalk", style("chalk")),
        ]
    )
    assert html.count("<button") == 1 and f'src="/thumbnails/{"ab" * 32}"' in html
    assert '<p data-name="ink" lang="en" hidden>Trigger words: wash, brush.</p>' in html
    assert '<p data-name="ink" lang="zh" hidden>触发词：wash, brush。</p>' in html
    assert '<p data-name="oil" lang="en" hidden>About the file: ignored a part.</p>' in html
    assert "chalk" not in html
    assert styles([("Chalk", style("chalk"))]) == ""


def test_markup_is_shown_as_text() -> None:
    evil = '"><script>alert(1)</script>'
    for html in (
        view.view(evil),
        view.note(evil),
        view.preview("data:x", evil),
        view.image("/a/b.jpg", evil, evil, evil),
        view.tools("/a/b.jpg", {"save": evil, "whole": evil}),
        view.strip([(0, "/a/b.jpg", evil)], evil),
        styles([(evil, style(evil, trigger_words=(evil,), notes=(evil,), thumbnail_hash="ab"))]),
    ):
        assert "<script" not in html and '"">' not in html.replace(' alt=""', "")
        assert "alert(1)" in html


def test_adapters_with_the_same_title_get_different_labels() -> None:
    def adapter(name: str, title: str) -> Adapter:
        return Adapter(name, title, (), 4, 1, "", AdapterState.RESIDENT, "", 1, None)

    found = labels(
        [adapter("a", "Neon"), adapter("b", "Neon"), adapter("c", "Ink"), adapter("d", "")]
    )
    assert found == [("Neon (a)", "a"), ("Neon (b)", "b"), ("Ink", "c"), ("d", "d")]


@pytest.mark.parametrize("reason", [None, *BY_REASON])
@pytest.mark.parametrize("texts", [TEXTS_EN, TEXTS_ZH])
def test_every_error_text_says_what_to_do(reason: Reason | None, texts: Texts) -> None:
    kind = Unavailable if reason is None else BY_REASON[reason]
    text = error_text(kind("it is so.", reason and reason.value), texts)
    assert "{" not in text and ".." not in text
    assert re.search("again|continues|then generate|再绘制|自动继续|再绘制一次", text), text


@pytest.mark.parametrize(
    ("english", "chinese"),
    [(CONTROLS_EN, CONTROLS_ZH), (TEXTS_EN, TEXTS_ZH)],
)
def test_both_languages_have_the_same_texts(
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
        ("zh-CN,zh;q=0.9,en;q=0.8", TEXTS_ZH),
        ("en-GB,zh;q=0.5", TEXTS_EN),
        ("", TEXTS_EN),
    ],
)
def test_the_browsers_language_decides(header: str, expected: Texts) -> None:
    assert texts_for(header) is expected


@pytest.mark.parametrize("texts", [TEXTS_EN, TEXTS_ZH])
def test_a_waiting_file_is_shown_with_its_reason(texts: Texts) -> None:
    def adapter(state: AdapterState, refusal: str = "", waiting: str = "") -> Adapter:
        return Adapter(
            state.value, "", (), 4, 1, "", state, refusal, 1, None, waiting_reason=waiting
        )

    state = ServiceState(
        (
            adapter(AdapterState.WAITING, waiting="aria2 is not finished."),
            adapter(AdapterState.RESIDENT, waiting="it is open"),
            adapter(AdapterState.AVAILABLE),
            adapter(AdapterState.REFUSED, "it is truncated", "it is open"),
        )
    )
    lines = notices(state, texts)
    assert [line.count("aria2 is not finished") for line in lines] == [0, 1, 0, 0]
    assert ["resident" in line for line in lines] == [False, False, True, False]
    assert sum("it is open" in line for line in lines) == 2 and "truncated" in lines[0]
    assert not any(".." in line or "{" in line for line in lines)


def test_step_labels_follow_the_schedule() -> None:
    def labels(counts: range) -> list[str]:
        return [step_label(n, counts, TEXTS_EN) for n in counts]

    four = ["1 · rough", "2 · draft", "3 · preview", "4 · production"]
    assert labels(range(1, 5)) == four
    assert labels(range(1, 3)) == ["1 · rough", "2 · production"]
    assert labels(range(2, 3)) == ["2 · production"]
    assert labels(range(1, 9))[3:] == ["4", "5", "6 · draft", "7 · preview", "8 · production"]


def test_warnings_of_the_server_are_on_the_page() -> None:
    state = ServiceState(warnings=("no few-step LoRA is given",))
    assert notices(state, TEXTS_EN)[0] == "From the server: no few-step LoRA is given."
