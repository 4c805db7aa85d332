"""How the page looks and whom it leaves out: languages, dark, phones, keyboards, screen readers.

With WULIART_SCREENSHOTS set, what is looked at is also written into docs/images.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.browser.visitor import Visitor, eventually

Visit = Callable[..., Visitor]
IMAGES = Path(__file__).parents[2] / "docs" / "images"
PHONE = {"viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True}


def shoot(visitor: Visitor, name: str, full_page: bool = False) -> None:
    """A screenshot for the README, if it is asked for."""
    if os.environ.get("WULIART_SCREENSHOTS"):
        visitor.page.mouse.move(0, 0)
        visitor.page.wait_for_timeout(600)
        visitor.page.screenshot(path=IMAGES / f"{name}.png", full_page=full_page)


def assert_accessible(visitor: Visitor) -> None:
    """No violation that axe calls serious or critical."""
    found = Axe().run(visitor.page).response["violations"]
    bad = [
        (v["id"], [node["html"][:160] for node in v["nodes"]])
        for v in found
        if v["impact"] in ("serious", "critical")
    ]
    assert not bad


def generate_three(visitor: Visitor, prompts: list[str], adapters: list[str]) -> None:
    for prompt, adapter in zip(prompts, adapters, strict=True):
        visitor.choose(adapter)
        visitor.generate(prompt)


def test_light(visit: Visit) -> None:
    visitor = visit(color_scheme="light", viewport={"width": 1120, "height": 770})
    assert_accessible(visitor)
    shoot(visitor, "page-idle")
    visitor.open_more()
    visitor.begin("a fox on a purple background")
    visitor.page.locator("img.preview").wait_for()
    shoot(visitor, "page-generating")
    visitor.wait_finished()
    generate_three(
        visitor,
        ["a red boat on a white background", "a cat on a black background"],
        ["No style", "Neon"],
    )
    expect(visitor.strip).to_have_count(3)
    assert_accessible(visitor)
    shoot(visitor, "page")


def test_dark(visit: Visit) -> None:
    visitor = visit(color_scheme="dark")
    visitor.open_more()
    generate_three(visitor, ["a rocket on a purple background"], ["No style"])
    assert_accessible(visitor)
    shoot(visitor, "page-dark")


def test_chinese_by_the_browsers_language(visit: Visit) -> None:
    visitor = visit(locale="zh-CN", color_scheme="light")
    expect(visitor.page.locator("#generate")).to_have_text("绘制")
    expect(visitor.line).to_contain_text("先写下要画什么")
    visitor.page.get_by_role("button", name="更多").click()
    visitor.choose("Ink")
    visitor.generate("红色背景上的猫")
    expect(visitor.line).to_contain_text("完成")
    assert_accessible(visitor)
    shoot(visitor, "page-chinese")


def test_phone(visit: Visit) -> None:
    visitor = visit(color_scheme="light", **PHONE)
    visitor.page.get_by_role("button", name="More").click()
    visitor.generate("a fox on a purple background")
    assert_accessible(visitor)
    # A weight's slider says its range, and the range fits beside it.
    for end, value in ((".min_value", "-4"), (".max_value", "4")):
        expect(visitor.page.locator(f".style {end}").first).to_have_text(value)
        box = visitor.page.locator(f".style {end}").first.bounding_box()
        row = visitor.page.locator(".style").first.bounding_box()
        assert box and row and row["x"] < box["x"] < row["x"] + row["width"] - box["width"]
    # Nothing lies beside the screen, and the image has come into view by itself.
    assert visitor.page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(visitor.image).to_be_in_viewport()
    visitor.page.get_by_role("button", name="More").click()
    shoot(visitor, "page-phone", full_page=True)


def test_by_keyboard_alone(visit: Visit) -> None:
    visitor = visit()
    keys = visitor.page.keyboard

    def tab_to(selector: str) -> None:
        for _ in range(40):
            if visitor.page.evaluate("s => document.activeElement.matches(s)", selector):
                return
            keys.press("Tab")
        pytest.fail(f"Tab does not come to {selector}")

    visitor.page.reload()
    expect(visitor.prompt).to_be_focused()
    keys.type("a red boat")
    eventually(lambda: len(visitor.adapters()) == 2, "the adapters")
    visitor.prompt.focus()
    tab_to(".style input")
    for adapter in ("Ink", "Neon"):
        keys.press("ArrowDown")
        expect(visitor.page.locator("[role=option].active")).to_have_attribute(
            "aria-label", adapter
        )
    keys.press("Enter")
    expect(visitor.adapter_box()).to_have_value("Neon")
    tab_to("#generate")
    keys.press("Enter")
    expect(visitor.page.locator("#stop")).to_be_focused()
    visitor.wait_finished()
    expect(visitor.page.locator("#generate")).to_be_focused()
    # The line is read aloud from a place that stays.
    expect(visitor.page.locator("[role=status].announcer")).to_contain_text("Done in")
    tab_to(".image-frame")
    keys.press("+")
    expect(visitor.page.locator(".viewer.zoomed")).to_be_visible()
    keys.press("0")
    expect(visitor.page.locator(".viewer.zoomed")).to_have_count(0)
    visitor.prompt.focus()
    keys.press("Control+Enter")
    expect(visitor.strip).to_have_count(2)
    expect(visitor.prompt).to_be_focused()
    tab_to("#strip button")
    keys.press("Enter")
    expect(visitor.line).to_contain_text("Generated before")
