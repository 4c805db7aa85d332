"""A real browser on the attacker's side: DNS rebinding, frames, another site's requests."""

from __future__ import annotations

import functools
import http.server
import threading
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.browser.conftest import Site
from tests.browser.visitor import PATIENCE, chromium

EVIL = "evil.example"

ATTACK = """async (page) => {
  const results = {};
  const read = async (name, url, options) => {
    try {
      const answer = await fetch(url, options);
      const text = await answer.text();
      results[name] = answer.type === "opaque" ? "opaque" : answer.status + " " + text;
    } catch (error) { results[name] = "blocked"; }
  };
  const json = { "content-type": "application/json" };
  await read("page", page);
  await read("opaque page", page, { mode: "no-cors" });
  await read("adapters", page + "v1/models");
  await read("join", page + "gradio_api/queue/join",
             { method: "POST", headers: json, body: '{"data":[]}', credentials: "include" });
  await read("plain post", page + "v1/images/generations",
             { method: "POST", mode: "no-cors", body: '{"prompt":"a fox"}' });
  return results;
}"""

FRAME = """(url) => {
  document.body.append(Object.assign(document.createElement("iframe"), { src: url }));
}"""


@pytest.fixture(scope="module")
def attacker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of another site, on another port of this machine."""
    folder = tmp_path_factory.mktemp("attacker")
    (folder / "index.html").write_text("<!doctype html><title>attacker</title>")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def page() -> Iterator[Page]:
    """A browser for which every name of the attacker's is this machine, as after a rebinding."""
    path = chromium()
    arguments = ["--no-sandbox", f"--host-resolver-rules=MAP {EVIL} 127.0.0.1"]
    # What stands against the attack is to be the page, not the newest browsers' own guard.
    arguments.append("--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessForWorkers")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=arguments)
        page = browser.new_page()
        page.set_default_timeout(PATIENCE * 1000)
        yield page
        browser.close()


def test_a_rebound_name_reaches_neither_page_nor_api(site: Site, page: Page) -> None:
    there = f"http://{EVIL}:{site.port}/"
    answer = page.goto(there)
    assert answer is not None and answer.status == 421
    assert "--allowed-host" in page.content() and "gradio" not in page.content()
    # The attacker's page came from the attacker's machine; then the name became this one's, and its
    # script is of the same origin as what answers.
    page.route(there, lambda route: route.fulfill(body="<!doctype html>", status=200), times=1)
    page.goto(there)
    results = page.evaluate(ATTACK, there)
    assert all(answer.startswith("421 ") for answer in results.values()) and len(results) == 5, (
        results
    )


def test_a_page_of_another_site_reads_and_causes_nothing(
    site: Site, page: Page, attacker: str
) -> None:
    drawn = site.client.info().queue_length
    for host in ("127.0.0.1", EVIL, "localhost"):
        page.goto(attacker.replace("127.0.0.1", host))
        results = page.evaluate(ATTACK, site.address)
        assert results["page"] == results["adapters"] == results["join"] == "blocked", results
        # Sent without asking first, and refused; the browser may not see even the refusal.
        assert results["opaque page"] == results["plain post"] == "blocked", results
    assert site.client.info().queue_length == drawn


def test_no_site_can_frame_the_page(site: Site, page: Page, attacker: str) -> None:
    page.goto(attacker)
    with page.expect_console_message(lambda message: "frame" in message.text.lower()):
        page.evaluate(FRAME, site.address)
    framed = page.frames[-1]
    assert framed.locator("#prompt").count() == 0
