"""The page's own calls over real HTTP: what a browser receives, event by event."""

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
from tests.support.page_calls import PageCalls, inputs
from tests.support.web_app import name_model, open_web
from wuliart_client import AsyncClient
from wuliart_web.image_store import ImageStore
from wuliart_web.page.generation import Button, ImageSettings, generate
from wuliart_web.page.handlers import button_updates
from wuliart_web.service_watch import ServiceState, ServiceWatch
from wuliart_web.texts import texts_for

CURL_EXAMPLE = Path(__file__).parents[2] / "clients" / "web" / "examples" / "generate.sh"


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


async def views(page: str, **others: Any) -> list[str]:
    """Every state of the right half while one image is generated, as HTML."""
    async with httpx.AsyncClient(base_url=page) as http:
        return [outputs[0] for outputs in await PageCalls(http).call("generate", inputs(**others))]


async def test_an_image_from_rendering_to_its_file(page: str) -> None:
    shown = await views(page)
    texts = [re.sub("<[^>]*>", " ", html) for html in shown]
    assert "Rendering" in texts[0]
    assert any("Step 2/4" in text for text in texts)
    assert "Done" in texts[-1] and "seed 7" in texts[-1]
    found = re.search(r'src="/(images/[^"]+/(\d{8}_\d{6}\.jpg))"', shown[-1])
    assert found
    async with httpx.AsyncClient() as http:
        answer = await http.get(page + found[1])
    image = Image.open(io.BytesIO(answer.content))
    assert (image.format, image.size) == ("JPEG", (1024, 1024))
    assert found[2] in answer.headers["content-disposition"]


async def test_the_button_says_generating_then_stop_then_generate_again(
    server: InProcessServer,
) -> None:
    settings = ImageSettings("a fox", 7, 4, ())
    async with AsyncClient(server.target) as client:
        updates = generate(client, ImageStore(), settings, number=0, texts=texts_for("en"))
        first, *between, last = [update.button async for update in updates]
    assert (first, set(between), last) == (Button.GENERATING, {Button.STOP}, Button.GENERATE)
    for which in Button:
        assert [b.visible for b in button_updates(which)] == [b is which for b in Button]


async def test_an_empty_prompt_and_an_unknown_adapter_are_explained(
    page: str, server: InProcessServer
) -> None:
    assert "Describe an image" in (await views(page, prompt="  "))[-1]
    assert "LoRA manager" in (await views(page, adapter="no-such"))[-1]
    async with HandManager(server) as manager:
        await manager.report()
        assert "no-such" in (await views(page, adapter="no-such"))[-1]


async def test_the_seed_changes_unless_it_is_locked(page: str) -> None:
    assert "seed 7<" not in (await views(page, keep=False))[-1]


async def test_a_cancelled_call_frees_the_device(page: str, server: InProcessServer) -> None:
    server.engine.hold()
    async with httpx.AsyncClient(base_url=page) as http:
        calls = PageCalls(http)
        event = (await calls.join("generate", inputs())).json()["event_id"]
        await until(lambda: server.engine.entered("step") == 1)
        fields = {"event_id": event, "session_hash": calls.session}
        fields |= {"fn_index": await calls.index("generate")}
        assert (await http.post("/gradio_api/cancel", json=fields)).status_code == 200
    server.engine.free()
    shown = await views(page)
    assert "Done" in shown[-1]
    assert server.engine.entered("decode") == 1


async def test_new_files_become_choices(page: str, server: InProcessServer) -> None:
    async with (
        HandManager(server) as manager,
        httpx.AsyncClient(timeout=10, base_url=page) as http,
    ):

        async def refresh() -> Any:
            return await PageCalls(http).call("refresh", [None])

        before = await refresh()
        async with http.stream("GET", "/adapters/news") as news:
            events = (line async for line in news.aiter_lines() if line.startswith("data:"))
            await anext(events)
            await manager.load("ink")
            # A page that refreshes after the event finds it: all pages share one subscription.
            await anext(events)
            after = await refresh()
    assert "ink" not in str(before) and "ink" in str(after)


async def test_one_watch_serves_all_pages_and_begins_again_when_the_server_is_back() -> None:
    def names(service: ServiceWatch) -> list[str]:
        return [adapter.name for adapter in service.state.adapters]

    with FakeImageServer() as fake:
        fake.watches += [
            [snapshot(1, adapter("ink")), change(2, added=adapter("neon")), Fail("DRAINING")],
            [snapshot(1, adapter("flat")), Hold()],
        ]
        async with AsyncClient(fake.target) as client:
            service = ServiceWatch(client)
            seen: list[list[ServiceState]] = [[], [], []]

            async def follow(page: list[ServiceState]) -> None:
                async for state in service.changes():
                    page[:] = [state]

            async with service.following():
                pages = [asyncio.create_task(follow(page)) for page in seen]
                await until(lambda: names(service) == ["flat"])
                await until(lambda: all(page == [service.state] for page in seen))
                for task in pages:
                    task.cancel()
        assert len(fake.resume_tokens) == 2


async def test_the_curl_example_generates(page: str, tmp_path: Path) -> None:
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
