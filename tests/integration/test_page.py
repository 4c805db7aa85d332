"""The page's own calls over real HTTP: what a browser would be told, event by event."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gradio_client import Client
from PIL import Image

from tests.fakes import until
from tests.hand_manager import HandManager
from tests.harness import InProcessServer, running_server
from tests.openai_door import name_model, open_web


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


def fields(**others: Any) -> dict[str, Any]:
    usual = {"prompt": "a fox", "style": "", "weight": 1, "second": "", "second_weight": 1}
    return usual | {"seed": 7, "keep": True, "steps": 4} | others


async def drawn(page: str, **others: Any) -> list[str]:
    """What the right half showed, one after another."""

    def draw() -> list[str]:
        job = Client(page, verbose=False).submit(**fields(**others), api_name="/draw")
        return [outputs[0] for outputs in job]

    return await asyncio.to_thread(draw)


async def test_a_picture_from_rendering_to_its_file(page: str) -> None:
    shown = await drawn(page)
    said = [re.sub("<[^>]*>", " ", html) for html in shown]
    assert "Rendering" in said[0]
    assert any("Step 2/4" in line for line in said) and "Done" in said[-1] and "seed 7" in said[-1]
    found = re.search(r'src="/(pictures/[^"]+/(\d{8}_\d{6}\.jpg))"', shown[-1])
    assert found
    async with httpx.AsyncClient() as http:
        answer = await http.get(page + found[1])
    picture = Image.open(io.BytesIO(answer.content))
    assert (picture.format, picture.size) == ("JPEG", (1024, 1024))
    assert found[2] in answer.headers["content-disposition"]


async def test_an_empty_box_and_a_wrong_style_are_told_in_words(page: str) -> None:
    assert "Say what to draw" in (await drawn(page, prompt="  "))[-1]
    assert "no-such" in (await drawn(page, style="no-such"))[-1]


async def test_the_seed_is_another_unless_it_is_kept(page: str) -> None:
    assert "seed 7<" not in (await drawn(page, keep=False))[-1]


async def test_who_leaves_frees_the_device(page: str, server: InProcessServer) -> None:
    server.engine.hold()
    job = await asyncio.to_thread(
        lambda: Client(page, verbose=False).submit(**fields(), api_name="/draw")
    )
    await until(lambda: server.engine.entered("step") == 1)
    await asyncio.to_thread(job.cancel)
    server.engine.free()
    shown = await drawn(page)
    assert "Done" in shown[-1]
    assert server.engine.entered("decode") == 1


async def test_styles_come_with_their_files(page: str, server: InProcessServer) -> None:
    def look() -> Any:
        client = Client(page, verbose=False)
        return client.predict(style="", second="", api_name="/look")

    async with HandManager(server) as manager:
        before = await asyncio.to_thread(look)
        await manager.load("ink")
        after = await asyncio.to_thread(look)
    assert "ink" not in str(before) and "ink" in str(after)
