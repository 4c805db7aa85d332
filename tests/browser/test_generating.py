"""Tests of the page in a real browser, against the real processes."""

from __future__ import annotations

import io
import re
import urllib.request
from collections.abc import Callable
from pathlib import Path

from PIL import Image
from playwright.sync_api import expect

from tests.browser.conftest import ADAPTERS, Site
from tests.browser.visitor import Visitor, eventually
from wuliart_client import read_recipe

Visit = Callable[..., Visitor]
NAME = re.compile(r"\d{8}_\d{6}\.jpg")


def test_save_gives_the_servers_own_file(visit: Visit, tmp_path: Path) -> None:
    visitor = visit(accept_downloads=True)
    address = visitor.generate("a fox on a purple background")
    expect(visitor.line).to_contain_text("Done in")
    names = set()
    for _ in range(2):
        with visitor.page.expect_download() as begun:
            visitor.page.locator(".save").click()
        names.add(begun.value.suggested_filename)
        begun.value.save_as(tmp_path / "saved.jpg")
    (name,) = names
    assert NAME.fullmatch(name)
    # The browser's own "save as" takes the name from the header, or else from the address.
    with urllib.request.urlopen(visitor.page.url.rstrip("/") + address) as answer:
        assert f'filename="{name}"' in answer.headers["Content-Disposition"]
        assert address.endswith(f"/{name}")
        assert answer.read() == (tmp_path / "saved.jpg").read_bytes()
    image = Image.open(tmp_path / "saved.jpg")
    assert (image.format, image.size) == ("JPEG", (1024, 1024))
    usual = io.BytesIO()
    Image.new("RGB", (8, 8)).save(usual, "JPEG", quality=95)
    assert image.quantization == Image.open(usual).quantization  # type: ignore[attr-defined]
    recipe = read_recipe(tmp_path / "saved.jpg")
    assert (recipe.prompt, recipe.steps) == ("a fox on a purple background", 4)
    assert not visitor.errors
    # Nothing comes from elsewhere: no fonts, no counters.
    assert visitor.hosts == {visitor.page.url.split("/")[2]}


def test_styles_follow_the_files(visit: Visit, site: Site) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.steps(1)
    assert sorted(visitor.adapters()) == ["Ink", "Neon"]
    file = site.add("fresh", (ADAPTERS / "pixel.safetensors").read_bytes())
    eventually(lambda: len(visitor.adapters()) == 3, "the new adapter in the list")
    visitor.choose(next(s for s in visitor.adapters() if s not in ("Ink", "Neon")))
    visitor.choose("Ink", which=1)
    address = visitor.generate("a red boat")
    with urllib.request.urlopen(visitor.page.url.rstrip("/") + address) as answer:
        recipe = read_recipe(answer.read())
    assert [adapter.name for adapter in recipe.adapters] == ["fresh", "ink"]

    bad = site.add("bad", b"no tensors here")
    eventually(lambda: "“bad” cannot be used" in visitor.notices, "why the file was refused")
    bad.unlink()
    file.unlink()
    eventually(lambda: len(visitor.adapters()) == 2, "the adapter gone")
    eventually(lambda: visitor.notices == "", "no notices")
    # It stays chosen: no image is generated without it unasked.
    visitor.begin("a red boat")
    expect(visitor.line).to_contain_text("This style no longer exists")
    visitor.choose("No style")
    visitor.generate("a red boat")


def test_a_thumbnail_restores_its_settings(visit: Visit) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.steps(1)
    visitor.choose("Neon")
    first = visitor.generate("a red boat")
    seed = visitor.seed.input_value()
    visitor.choose("No style")
    visitor.steps(2)
    second = visitor.generate("a green apple")
    assert visitor.seed.input_value() != seed
    assert first.rsplit("/")[-1] < second.rsplit("/")[-1]
    expect(visitor.strip).to_have_count(2)

    visitor.strip.nth(1).click()
    expect(visitor.prompt).to_have_value("a red boat")
    expect(visitor.seed).to_have_value(seed)
    expect(visitor.image).to_have_attribute("src", first)
    assert visitor.adapter_box().input_value() == "Neon"
    assert visitor.adapter_box(1).input_value() == "No style"
    assert visitor.page.locator("#steps input").nth(0).is_checked()
    assert visitor.lock.is_checked()
    # The same image again, and its name is another all the same.
    third = visitor.generate("a red boat")
    assert len({first, second, third}) == 3
    files = []
    for address in (first, third):
        with urllib.request.urlopen(visitor.page.url.rstrip("/") + address) as answer:
            files.append(answer.read())
    assert files[0] == files[1]


def test_a_thrown_or_typed_seed_stays_until_unlocked(visit: Visit) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.steps(1)
    assert not visitor.lock.is_checked()
    before = visitor.seed.input_value()
    visitor.page.locator("#dice").click()
    expect(visitor.seed).not_to_have_value(before)
    expect(visitor.lock).to_be_checked()
    thrown = visitor.seed.input_value()
    visitor.generate("a red boat")
    expect(visitor.line).to_contain_text(f"seed {thrown}")
    visitor.lock.uncheck()
    visitor.seed.fill("77")
    expect(visitor.lock).to_be_checked()
    visitor.generate("a red boat")
    expect(visitor.line).to_contain_text("seed 77")


def test_wheel_zooms_at_the_pointer_drag_pans_and_double_click_leaves_full_screen(
    visit: Visit,
) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.steps(1)
    visitor.generate("a red boat")
    page = visitor.page
    page.locator("button.full").click()
    page.wait_for_function("document.fullscreenElement?.id === 'result'")

    def box() -> tuple[float, float, float]:
        found = visitor.image.bounding_box()
        assert found is not None
        return found["x"], found["y"], found["width"]

    left, top, size = box()
    assert size == page.viewport_size["height"]  # type: ignore[index]
    x, y = left + size / 4, top + size / 3
    page.mouse.move(x, y)
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    eventually(lambda: box()[2] > size * 1.5, "the image larger")
    now = box()
    assert abs((x - now[0]) / now[2] - 1 / 4) < 0.01 and abs((y - now[1]) / now[2] - 1 / 3) < 0.01
    page.mouse.down()
    page.mouse.move(x + 40, y + 30)
    page.mouse.up()
    assert abs(box()[0] - now[0] - 40) < 1 and abs(box()[1] - now[1] - 30) < 1

    page.keyboard.press("Tab")
    visitor.page.locator(".image-frame").focus()
    page.keyboard.press("0")
    eventually(lambda: abs(box()[2] - size) < 1, "all of the image")
    page.mouse.dblclick(left + size / 2, top + size / 2)
    assert page.evaluate("document.fullscreenElement !== null")
    page.mouse.dblclick(left / 2, top + size / 2)
    page.wait_for_function("document.fullscreenElement === null")


def test_two_visitors_do_not_see_each_others_images(visit: Visit) -> None:
    one, other = visit(), visit()
    for visitor in (one, other):
        visitor.open_more()
        visitor.steps(2)
    one.begin("a red boat")
    other.begin("a green apple")
    first, second = one.wait_finished(), other.wait_finished()
    assert one.image.get_attribute("alt") == "a red boat"
    assert other.image.get_attribute("alt") == "a green apple"
    for visitor, foreign in ((one, second), (other, first)):
        expect(visitor.strip).to_have_count(1)
        assert foreign not in visitor.page.content()
    late = visit()
    assert "/images/" not in late.page.content()


def test_a_prompt_of_2000_characters_is_generated_and_its_unread_end_reported(visit: Visit) -> None:
    visitor = visit()
    visitor.open_more()
    visitor.steps(1)
    visitor.generate(("a red boat on a blue sea, " * 80)[:2000])
    expect(visitor.line).to_contain_text("too long")
    visitor.generate("红" * 2000)


def test_markup_in_a_prompt_is_text(visit: Visit) -> None:
    evil = """"><img src=x onerror=alert(1)><script>alert(2)</script> ${alert(3)} {{value}}"""
    visitor = visit()
    visitor.open_more()
    visitor.steps(2)
    visitor.generate(evil)
    assert visitor.image.get_attribute("alt") == evil
    assert evil in (visitor.strip.first.get_attribute("aria-label") or "")
    visitor.prompt.fill("")
    visitor.strip.first.click()
    expect(visitor.prompt).to_have_value(evil)
    assert visitor.page.locator("#result script, #strip script, img[onerror]").count() == 0
    assert not visitor.errors


def test_an_empty_prompt_asks_for_one(visit: Visit) -> None:
    visitor = visit()
    visitor.begin("   ")
    expect(visitor.line).to_contain_text("Describe an image")
    expect(visitor.page.locator("#generate")).to_be_enabled()
