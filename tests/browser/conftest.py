"""Debian's Chromium, and the product's processes for it to look at.

Each module has a browser and processes of its own: they are started once, and Playwright's event
loop is closed before another module's tests need one.
"""

from __future__ import annotations

import shutil
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.browser.visitor import PATIENCE, Visitor, chromium, eventually
from tests.support.whole_service import whole_service
from wuliart_client import Client

ADAPTERS = Path(__file__).parents[2] / "loras"


class Site:
    """Server, manager and page, running; files in `loras` are adapters."""

    def __init__(self, folder: Path) -> None:
        self.service = whole_service(folder)
        shutil.copy(ADAPTERS / "neon.safetensors", self.service.loras)
        shutil.copy(ADAPTERS / "ink.safetensors", self.service.loras)
        self.client = Client(self.service.listen)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self.port = listener.getsockname()[1]

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        self.service.start_server()
        self.service.start_manager()
        self.service.start_web(self.port)
        self.service.wait_until_ready()
        eventually(self._answers, "the page answers")
        self.wait_managed(True)

    def wait_managed(self, managed: bool) -> None:
        eventually(
            lambda: self.client.info(timeout=PATIENCE).lora_manager_connected is managed,
            "the manager attached" if managed else "the manager gone",
        )

    def add(self, name: str, data: bytes) -> Path:
        """Puts an adapter file in as a careful program does: written aside, then renamed."""
        aside = self.service.loras.parent / "aside"
        aside.write_bytes(data)
        return aside.rename(self.service.loras / f"{name}.safetensors")

    def _answers(self) -> bool:
        self.service.check()
        try:
            with urllib.request.urlopen(self.address, timeout=5):
                return True
        except urllib.error.URLError:
            return False


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    running = Site(tmp_path_factory.mktemp("site"))
    try:
        running.start()
        yield running
    finally:
        running.client.close()
        running.service.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = chromium()
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def visit(site: Site, browser: Browser) -> Iterator[Callable[..., Visitor]]:
    """Opens the page as another visitor; `options` are the browser context's."""
    contexts = []

    def open_page(**options: object) -> Visitor:
        usual = {"locale": "en-US", "viewport": {"width": 1280, "height": 860}}
        context = browser.new_context(**(usual | options))  # type: ignore[arg-type]
        context.set_default_timeout(PATIENCE * 1000)
        contexts.append(context)
        return Visitor(context.new_page(), site.address)

    yield open_page
    for context in contexts:
        context.close()
