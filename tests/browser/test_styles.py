"""Pictures of styles: they come beside the list, choose what it chooses, go with their files."""

from __future__ import annotations

import re
from collections.abc import Callable

from playwright.sync_api import Locator, expect

from tests.browser.conftest import Site
from tests.browser.test_looks import PHONE, assert_accessible
from tests.browser.visitor import Visitor, eventually
from tests.support.preview_images import image

Visit = Callable[..., Visitor]


def pictures(visitor: Visitor) -> Locator:
    return visitor.page.locator("#styles button")


def is_loaded(picture: Locator) -> bool:
    shown: bool = picture.locator("img").evaluate("i => i.complete && i.naturalWidth > 0")
    return shown


def test_a_picture_beside_a_file_becomes_a_choice_and_goes_again(visit: Visit, site: Site) -> None:
    visitor = visit()
    expect(pictures(visitor)).to_have_count(0)
    beside = site.service.loras / "ink.png"
    beside.write_bytes(image(size=(300, 400)))
    try:
        expect(pictures(visitor)).to_have_count(1)
        ink = pictures(visitor).first
        expect(ink).to_have_text("Ink")
        eventually(lambda: is_loaded(ink), "the picture")
        ink.click()
        expect(visitor.adapter_box()).to_have_value("Ink")
        expect(ink).to_have_attribute("aria-pressed", "true")
        assert_accessible(visitor)
        # The list chooses, and the picture follows.
        visitor.choose("Neon")
        expect(ink).to_have_attribute("aria-pressed", "false")
        visitor.choose("Ink")
        expect(ink).to_have_attribute("aria-pressed", "true")
        ink.click()
        expect(visitor.adapter_box()).to_have_value("No style")
        expect(ink).to_have_attribute("aria-pressed", "false")
        # What is chosen is what is sent; an earlier image brings its style back.
        ink.click()
        visitor.generate("a red boat")
        visitor.choose("No style")
        visitor.strip.first.click()
        expect(ink).to_have_attribute("aria-pressed", "true")
        # Another image is another address, so no browser shows the old one.
        before = ink.locator("img").get_attribute("src") or ""
        beside.write_bytes(image(color=(30, 30, 200)))
        expect(ink.locator("img")).not_to_have_attribute("src", before)
        assert re.fullmatch("/thumbnails/[0-9a-f]{64}", before)
        expect(ink).to_have_attribute("aria-pressed", "true")
        # A page that is opened now is served with the pictures, on a phone, too.
        phone = visit(color_scheme="dark", **PHONE)
        pictures(phone).first.tap()
        expect(phone.adapter_box()).to_have_value("Ink")
        assert phone.page.evaluate("document.documentElement.scrollWidth") <= 390
        assert_accessible(phone)
        assert not phone.errors and not visitor.errors
    finally:
        beside.unlink()
    expect(pictures(visitor)).to_have_count(0)
    expect(visitor.adapter_box()).to_have_value("Ink")
