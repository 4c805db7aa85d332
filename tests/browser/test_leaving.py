"""Step by step, waiting, stopping and going away: the page over an engine that a test holds."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, Page, async_playwright, expect

from tests.browser.visitor import chromium
from tests.support.fakes import until
from tests.support.harness import InProcessServer, running_server
from tests.support.web_app import name_model, open_web


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def address(server: InProcessServer) -> AsyncIterator[str]:
    async with open_web(server.target) as port:
        yield f"http://127.0.0.1:{port}/"
        server.engine.free()


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    path = chromium()
    async with async_playwright() as playwright:
        running = await playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        await running.close()


async def generate(browser: Browser, address: str, prompt: str) -> Page:
    """Opens the page and starts an image."""
    page = await (await browser.new_context(locale="en-US")).new_page()
    await page.goto(address)
    await page.locator("#result .line").wait_for()
    await page.locator("#prompt textarea").fill(prompt)
    await page.locator("#generate").click()
    return page


async def test_each_step_is_shown_and_stop_in_the_second_frees_the_device(
    browser: Browser, address: str, server: InProcessServer
) -> None:
    server.engine.hold()
    page = await generate(browser, address, "a fox")
    line = page.locator("#result .line")
    await expect(line).to_contain_text("Rendering… Step 1/4")
    server.engine.let()
    await expect(line).to_have_text("Step 1/4")
    await expect(page.locator("img.preview")).to_be_visible()
    await expect(page.locator(".steps i.on")).to_have_count(1)
    await page.locator("#stop").click()
    await expect(line).to_contain_text("Stopped")
    await expect(page.locator("#generate")).to_be_visible()
    await server.let_go(0)
    server.engine.free()
    await page.locator("#generate").click()
    await expect(line).to_contain_text("Done in")
    # Two steps of the first image, four of the second: nothing went on behind the page's back.
    assert (server.engine.entered("step"), server.engine.entered("decode")) == (6, 1)


async def test_four_steps_one_by_one(
    browser: Browser, address: str, server: InProcessServer
) -> None:
    server.engine.hold()
    page = await generate(browser, address, "a fox")
    for step in (1, 2, 3):
        server.engine.let()
        await expect(page.locator("#result .line")).to_have_text(f"Step {step}/4")
        await expect(page.locator(".steps i.on")).to_have_count(step)
    server.engine.hold("decode")
    server.engine.let()
    await expect(page.locator("#result .line")).to_have_text("Step 4/4 → finishing")
    server.engine.free()
    await expect(page.locator("#result img.finished")).to_be_visible()


async def test_a_waiting_page_shows_its_queue_position(
    browser: Browser, address: str, server: InProcessServer
) -> None:
    server.engine.hold()
    server.engine.cold |= {"second", "third"}
    pages = []
    for n, prompt in enumerate(("first", "second", "third")):
        pages.append(await generate(browser, address, prompt))
        await server.accepted(n + 1)
    await expect(pages[2].locator("#result .line")).to_contain_text("Waiting… 2 images")
    await expect(pages[1].locator("#result .line")).to_contain_text("You are next")
    # A waiting page can stop, too.
    await pages[2].locator("#stop").click()
    await server.let_go(2)
    server.engine.free()
    await expect(pages[1].locator("#result .line")).to_contain_text("Done in")
    assert server.prompts == ["first", "second"]


async def test_a_page_that_is_closed_frees_the_device(
    browser: Browser, address: str, server: InProcessServer
) -> None:
    server.engine.hold()
    page = await generate(browser, address, "a fox")
    await until(lambda: server.engine.entered("step") == 1)
    await page.context.close()
    # Gradio looks for closed pages from time to time, and cancels with the next event.
    let = 0
    await asyncio.sleep(1)
    while let < 3 and not server.scheduler.submitted[0].cancelled:
        server.engine.let()
        let += 1
        await asyncio.sleep(1)
    await server.let_go(0)
    server.engine.free()
    await (await generate(browser, address, "a boat")).locator("#result img.finished").wait_for()
    # Of the first: the steps that were let, the one that was held, and no image.
    assert (server.engine.entered("step"), server.engine.entered("decode")) == (let + 1 + 4, 1)
