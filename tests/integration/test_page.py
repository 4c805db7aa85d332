"""The page's own calls over real HTTP: what a browser would be told, event by event."""

from __future__ import annotations

import asyncio
import io
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.fake_image_server import Fail, FakeImageServer, Hold, adapter, change, snapshot
from tests.support.fakes import until
from tests.support.hand_manager import HandManager
from tests.support.harness import InProcessServer, running_server
from tests.support.openai_door import name_model, open_web
from tests.support.page_calls import PageCalls, usual
from wuliart_client import AsyncClient
from wuliart_web.adapters import Adapters, Known
from wuliart_web.generation import Asked, Button, draw
from wuliart_web.images import Images
from wuliart_web.page import buttons
from wuliart_web.words import spoken

CURL_EXAMPLE = Path(__file__).parents[2] / "clients" / "web" / "examples" / "draw.sh"


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def page(server: InProcessServer) -> AsyncIterator[str]:
    async with open_web(server.target) as port:
        yield f"http://127.0.0.1:{port}/"
        server.engine.free()


async def drawn(page: str, **others: Any) -> list[str]:
    """What the right half showed, one after another."""
    async with httpx.AsyncClient(base_url=page) as http:
        return [outputs[0] for outputs in await PageCalls(http).call("draw", usual(**others))]


async def test_a_image_from_rendering_to_its_file(page: str) -> None:
    shown = await drawn(page)
    said = [re.sub("<[^>]*>", " ", html) for html in shown]
    assert "Rendering" in said[0]
    assert any("Step 2/4" in line for line in said) and "Done" in said[-1] and "seed 7" in said[-1]
    found = re.search(r'src="/(images/[^"]+/(\d{8}_\d{6}\.jpg))"', shown[-1])
    assert found
    async with httpx.AsyncClient() as http:
        answer = await http.get(page + found[1])
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("JPEG", (1024, 1024))
    assert found[2] in answer.headers["content-disposition"]


async def test_the_button_says_generating_then_offers_stop_then_draws_again(
    server: InProcessServer,
) -> None:
    asked = Asked("a fox", 7, 4, ())
    async with AsyncClient(server.target) as client:
        shown = [now async for now in draw(client, Images(), asked, 0, spoken("en"))]
    first, *between, last = [now.button for now in shown]
    assert (first, set(between), last) == (Button.GENERATING, {Button.STOP}, Button.DRAW)
    for which in Button:
        assert [button.visible for button in buttons(which)] == [b is which for b in Button]


async def test_an_empty_box_and_a_wrong_adapter_are_told_in_words(
    page: str, server: InProcessServer
) -> None:
    assert "Say what to generate" in (await drawn(page, prompt="  "))[-1]
    assert "LoRA manager" in (await drawn(page, adapter="no-such"))[-1]
    async with HandManager(server) as manager:
        await manager.report()
        assert "no-such" in (await drawn(page, adapter="no-such"))[-1]


async def test_the_seed_is_another_unless_it_is_kept(page: str) -> None:
    assert "seed 7<" not in (await drawn(page, keep=False))[-1]


async def test_who_leaves_frees_the_device(page: str, server: InProcessServer) -> None:
    server.engine.hold()
    async with httpx.AsyncClient(base_url=page) as http:
        calls = PageCalls(http)
        event = (await calls.join("draw", usual())).json()["event_id"]
        await until(lambda: server.engine.entered("step") == 1)
        fields = {"event_id": event, "session_hash": calls.session}
        fields |= {"fn_index": await calls.index("draw")}
        assert (await http.post("/gradio_api/cancel", json=fields)).status_code == 200
    server.engine.free()
    shown = await drawn(page)
    assert "Done" in shown[-1]
    assert server.engine.entered("decode") == 1


async def test_adapters_come_with_their_files(page: str, server: InProcessServer) -> None:
    async with (
        HandManager(server) as manager,
        httpx.AsyncClient(timeout=10, base_url=page) as http,
    ):

        async def look() -> Any:
            return await PageCalls(http).call("look", [None])

        before = await look()
        async with http.stream("GET", "/adapters/news") as news:
            told = (line async for line in news.aiter_lines() if line.startswith("data:"))
            await anext(told)
            await manager.load("ink")
            # Whoever looks when told finds it: one subscription stands behind all pages.
            await anext(told)
            after = await look()
    assert "ink" not in str(before) and "ink" in str(after)


async def test_one_watch_serves_all_pages_and_begins_again_when_the_server_is_back() -> None:
    def names(adapters: Adapters) -> list[str]:
        return [adapter.name for adapter in adapters.known.adapters]

    with FakeImageServer() as fake:
        fake.watches += [
            [snapshot(1, adapter("ink")), change(2, added=adapter("neon")), Fail("DRAINING")],
            [snapshot(1, adapter("flat")), Hold()],
        ]
        async with AsyncClient(fake.target) as client:
            adapters = Adapters(client)
            told: list[list[Known]] = [[], [], []]

            async def look(page: list[Known]) -> None:
                async for known in adapters.changes():
                    page[:] = [known]

            async with adapters.following():
                pages = [asyncio.create_task(look(page)) for page in told]
                await until(lambda: names(adapters) == ["flat"])
                await until(lambda: all(page == [adapters.known] for page in told))
                for task in pages:
                    task.cancel()
        assert len(fake.resume_tokens) == 2


async def test_the_curl_example_draws(page: str, tmp_path: Path) -> None:
    async def run(prompt: str) -> tuple[int | None, str]:
        process = await asyncio.create_subprocess_exec(
            str(CURL_EXAMPLE), prompt, "image.jpg",
            cwd=tmp_path,
            env=os.environ | {"WULIART_WEB": page.rstrip("/")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output, _ = await process.communicate()
        return process.returncode, output.decode()

    assert await run("一只红狐狸") == (0, "saved image.jpg\n")
    assert Image.open(tmp_path / "image.jpg").size == (1024, 1024)
    code, output = await run("x" * 3000)
    assert code == 1 and '"error"' in output
