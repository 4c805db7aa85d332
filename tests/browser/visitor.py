"""A visitor of the page in a browser: its selectors, its actions, and all waiting."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable

import pytest
from playwright import async_api, sync_api
from playwright.sync_api import Locator, Page, expect

PATIENCE = 60.0
"""Seconds a condition may take on a busy machine; nothing is asserted about time."""

for api in (sync_api, async_api):
    api.expect.set_options(timeout=PATIENCE * 1000)


def chromium() -> str:
    """The path of Debian's Chromium; skips the test where there is none."""
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("no browser here: apt-get install chromium fonts-noto-cjk")
    return path


def eventually(condition: Callable[[], object], what: str) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"not within {PATIENCE:.0f} s: {what}"
        time.sleep(0.02)


class Visitor:
    """One browser context with the page open."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("dialog", lambda dialog: (self.errors.append("a dialog"), dialog.dismiss()))
        page.on("request", self._on_request)
        page.on("console", self._on_console)
        page.goto(address)
        # The adapters have come: everything on the page is alive.
        self.line.wait_for()
        eventually(lambda: self.adapters() or self.notices, "the adapters, or why there are none")

    def _on_console(self, message: object) -> None:
        # The page needs nothing that its own policy forbids.
        if "Content Security Policy" in (text := message.text):  # type: ignore[attr-defined]
            self.errors.append(text)

    def _on_request(self, request: object) -> None:
        url: str = request.url  # type: ignore[attr-defined]
        if url.startswith("http"):
            self.hosts.add(url.split("/")[2])

    # -- what the page shows --------------------------------------------------------------------

    @property
    def line(self) -> Locator:
        """The status line above the image."""
        return self.page.locator("#result .line")

    @property
    def image(self) -> Locator:
        """The finished image."""
        return self.page.locator("#result img.finished")

    @property
    def prompt(self) -> Locator:
        return self.page.locator("#prompt textarea")

    @property
    def seed(self) -> Locator:
        return self.page.locator("#seed input")

    @property
    def lock(self) -> Locator:
        return self.page.locator("#keep input")

    @property
    def strip(self) -> Locator:
        """The small images of this visit."""
        return self.page.locator("#strip button")

    @property
    def notices(self) -> str:
        return self.page.locator("#notices").inner_text()

    def adapter_box(self, which: int = 0) -> Locator:
        """The first list of adapters, or the second one."""
        return self.page.locator(".style input[role=combobox]").nth(which)

    def adapters(self) -> list[str]:
        """Returns the choices of the first list of adapters, without the empty one."""
        box = self.adapter_box()
        box.click()
        # In one go: the list may change while it is read.
        names: list[str] = self._options(box).evaluate_all("all => all.map(o => o.ariaLabel)")
        box.blur()
        return names[1:]

    def _options(self, box: Locator) -> Locator:
        return self.page.locator(f"#{box.get_attribute('aria-controls')} [role=option]")

    # -- actions ---------------------------------------------------------------------------------

    def open_more(self) -> None:
        self.page.get_by_role("button", name="More").click()
        self.seed.wait_for()

    def choose(self, adapter: str, which: int = 0) -> None:
        box = self.adapter_box(which)
        box.click()
        self._options(box).and_(self.page.get_by_label(adapter, exact=True)).click()

    def steps(self, n: int) -> None:
        """Chooses how many; the fold must be open."""
        self.page.locator("#steps label").nth(n - 1).click()

    def begin(self, prompt: str) -> None:
        """Starts an image without waiting for it."""
        self.prompt.fill(prompt)
        self.page.locator("#generate").click()

    def generate(self, prompt: str) -> str:
        """Generates an image and returns its address."""
        before = self.strip.count()
        self.begin(prompt)
        return self.wait_finished(before + 1)

    def wait_finished(self, images: int = 1) -> str:
        """Waits until this visit has that many images; returns the address of the last one."""
        expect(self.strip).to_have_count(images)
        self.image.wait_for()
        address = self.image.get_attribute("src")
        assert address is not None
        return address
