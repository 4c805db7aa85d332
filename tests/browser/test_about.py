"""What the page says of a small model under the prompt, and that it says nothing of another."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from scripts.processes import Service, free_port
from tests.browser.test_looks import PHONE, assert_accessible, shoot
from tests.browser.visitor import Visitor, eventually
from tests.support.fake_image_server import FakeImageServer, Hold, adapter, snapshot
from wuliart.v1.image_generation_pb2 import GetServerInfoResponse

Visit = Callable[..., Visitor]


def examples(page: Page) -> Locator:
    return page.locator("#about .example").filter(visible=True)


def introduction(page: Page) -> Locator:
    return page.locator("#about p").filter(visible=True)


def test_six_examples_fill_the_prompt_and_change(visit: Visit) -> None:
    visitor = visit()
    page = visitor.page
    expect(introduction(page)).to_contain_text("small demonstration model")
    expect(examples(page)).to_have_count(6)
    first = examples(page).all_inner_texts()
    assert len(set(first)) == 6
    examples(page).nth(4).click()
    expect(visitor.prompt).to_have_value(first[4])
    # Filled and not started.
    expect(visitor.line).to_contain_text("Describe an image")
    expect(visitor.strip).to_have_count(0)

    place = page.locator("#generate").bounding_box()
    others = page.get_by_role("button", name="Other examples")
    seen = set(first)
    for _ in range(5):
        others.click()
        now = examples(page).all_inner_texts()
        assert len(now) == 6 and not seen & set(now)
        seen |= set(now)
        assert page.locator("#generate").bounding_box() == place
    page.reload()
    expect(examples(page)).to_have_count(6)
    assert examples(page).all_inner_texts() != first


def test_an_example_is_generated_as_it_is_shown(visit: Visit) -> None:
    visitor = visit(locale="zh-CN")
    visitor.page.get_by_role("button", name="更多").click()
    visitor.steps(1)
    expect(introduction(visitor.page)).to_contain_text("演示模型")
    chosen = examples(visitor.page).first
    prompt = chosen.inner_text()
    # By keyboard alone: the example, then Ctrl+Enter.
    chosen.focus()
    visitor.page.keyboard.press("Enter")
    expect(visitor.prompt).to_have_value(prompt)
    visitor.page.keyboard.press("Control+Enter")
    visitor.wait_finished()
    expect(visitor.image).to_have_attribute("alt", prompt)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("locale", ["en-US", "zh-CN"])
@pytest.mark.parametrize("device", ["desktop", "phone"])
def test_looks(visit: Visit, scheme: str, locale: str, device: str) -> None:
    options = PHONE if device == "phone" else {}
    visitor = visit(color_scheme=scheme, locale=locale, **options)
    page = visitor.page
    expect(examples(page)).to_have_count(6)
    assert_accessible(visitor)
    shoot(visitor, f"about-{device}-{locale}-{scheme}")
    for _ in range(7):
        # No prompt is cut off in its button.
        heights = "all => all.filter(b => !b.hidden).map(b => b.scrollHeight - b.clientHeight)"
        assert page.locator("#about .example").evaluate_all(heights) == [0] * 6
        page.locator("#about .others").filter(visible=True).click()
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def described(*prompts: str) -> GetServerInfoResponse:
    both = [
        {"language": "en", "summary": 'It knows <b>"foxes"</b> & ${hens}.'},
        {"language": "zh", "summary": "它认识狐狸。"},
    ]
    introductions = [each | {"example_prompts": prompts} for each in both]
    return GetServerInfoResponse(
        lora_manager_connected=True,
        limits={"min_steps": 1, "max_steps": 4},
        model={"embedded": True, "description": {"introductions": introductions}},
    )


@pytest.fixture
def fake(tmp_path: Path) -> Iterator[tuple[FakeImageServer, str]]:
    """A page before a server whose model is not a small one."""
    with FakeImageServer() as server:
        server.watches += [[snapshot(1, adapter("ink")), Hold()]] * 9
        server.info = GetServerInfoResponse(
            lora_manager_connected=True, limits={"min_steps": 1, "max_steps": 4}
        )
        service = Service(tmp_path, tmp_path / "loras", listen=server.target)
        port = free_port()
        service.start_web(port)
        try:
            yield server, f"http://127.0.0.1:{port}/"
        finally:
            service.stop()


def test_a_model_without_a_description_shows_nothing(
    fake: tuple[FakeImageServer, str], browser: Browser
) -> None:
    server, address = fake
    page = browser.new_context(locale="en-US").new_page()
    try:
        eventually(lambda: _answers(page, address), "the page answers")
        expect(page.locator("#result .line")).to_be_visible()
        expect(page.locator("#about")).not_to_be_visible()
        expect(page.get_by_text("demonstration model")).to_have_count(0)
        assert page.locator(".example, .others").count() == 0

        # Another server in its place, which describes its model.
        evil = "a <img src=x onerror=alert(1)> ${alert(2)} {{value}} & \"'"
        server.info = described(evil, "a fox")
        expect(examples(page)).to_have_count(2)
        expect(introduction(page)).to_contain_text('It knows <b>"foxes"</b> & ${hens}.')
        examples(page).filter(has_text="img").click()
        expect(page.locator("#prompt textarea")).to_have_value(evil)
        assert page.locator("#about img").count() == 0
        page.reload()
        expect(examples(page)).to_have_count(2)
        server.info = GetServerInfoResponse(lora_manager_connected=True)
        expect(page.locator("#about")).not_to_be_visible()
    finally:
        page.context.close()


def _answers(page: Page, address: str) -> bool:
    try:
        page.goto(address)
    except Exception:
        return False
    return True


def test_the_introduction_is_in_the_page_as_first_served(visit: Visit) -> None:
    # An update after the first paint would move the controls below it.
    page = visit().page
    served = page.request.get(page.url).text()
    assert "small demonstration model" in served and "小型演示模型" in served
