"""A server that skips bad adapters reports them to every client, and only there."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import wuliart_client
from tests.support.calls import failure_of, read_until
from tests.support.fakes import DEADLINE
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from tests.support.web_app import name_model, open_openai
from wuliart.v1.image_generation_pb2 import AdapterWeight
from wuliart_web.image_store import ImageStore
from wuliart_web.page.generation import ImageSettings, generate
from wuliart_web.texts import texts_for


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(skip_bad=True) as running:
        yield running


@pytest.fixture
async def manager(server: InProcessServer) -> AsyncIterator[HandManager]:
    async with HandManager(server) as attached:
        yield attached


async def test_started_names_what_is_skipped(server: InProcessServer, manager: HandManager) -> None:
    ink = await manager.load("ink")
    await manager.report(ink, entry_of("oil", refusal_reason="rank 99 at img_in"))
    adapters = [AdapterWeight(name=name) for name in ("oil", "inc", "ink")]
    call = server.generate(adapters=adapters)
    started = (await read_until(call, "started")).started
    assert [(use.name, use.content_hash) for use in started.adapters] == [("ink", ink.content_hash)]
    assert [(s.name, s.reason, s.message) for s in started.skipped_adapters] == [
        ("oil", "ADAPTER_REFUSED", "adapter 'oil' cannot be used: rank 99 at img_in"),
        ("inc", "ADAPTER_NOT_FOUND", "there is no adapter 'inc'; did you mean 'ink'?"),
    ]
    completed = (await read_until(call, "completed")).completed
    assert [s.name for s in wuliart_client.read_recipe(completed.image).adapters] == ["ink"]


async def test_the_client_package_passes_it_on(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report()
    async with wuliart_client.AsyncClient(server.target) as client:
        events: list[wuliart_client.Event] = []
        image = await client.generate_image("a cat", adapters=["gone"], on_event=events.append)
        plain = await client.generate_image("a cat", timeout=DEADLINE)
    (started,) = [event for event in events if isinstance(event, wuliart_client.Started)]
    gone = wuliart_client.SkippedAdapter("gone", "ADAPTER_NOT_FOUND", "there is no adapter 'gone'")
    assert started.skipped_adapters == image.skipped_adapters == (gone,)
    assert image.adapters == plain.skipped_adapters == ()


async def test_the_openai_api_names_it_beside_each_image(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("oil", refusal_reason="rank 99"))
    name_model(server, "qwen-image")
    async with open_openai(server.target) as door:
        answer = await door.images.generate(prompt="a cat", model="oil", n=2)
        stream = await door.images.generate(prompt="a cat", model="oil", stream=True)
        completed = [e async for e in stream if e.type == "image_generation.completed"]
        plain = await door.images.generate(prompt="a cat")
    expected = [{"name": "oil", "reason": "adapter 'oil' cannot be used: rank 99"}]
    image: Any
    for image in (*(answer.data or ()), *completed):
        assert image.skipped_adapters == expected
    assert all("skipped_adapters" not in image.model_extra for image in plain.data or ())


async def test_the_page_names_it_beside_the_image(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("<b>oil</b>", refusal_reason="rank 99"))
    settings = ImageSettings("a cat", 1, 4, (wuliart_client.AdapterWeight("<b>oil</b>", 1.0),))
    async with wuliart_client.AsyncClient(server.target) as client:
        updates = generate(client, ImageStore(), settings, number=0, texts=texts_for("en"))
        shown = [update async for update in updates]
    assert shown[-1].finished
    assert "generated without “&lt;b&gt;oil&lt;/b&gt;”" in shown[-1].html


async def test_what_passes_by_itself_still_fails(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("ink"))
    manager.detach()
    adapters = [AdapterWeight(name=name) for name in ("ink", "gone")]
    failure = await failure_of(server.generate(adapters=adapters))
    assert failure.reason == "MANAGER_UNAVAILABLE"
    assert failure.metadata["adapter"] == "ink"
