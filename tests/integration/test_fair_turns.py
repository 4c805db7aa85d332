"""The fair queue over real connections: a client that fills it does not block others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from inference_server.network import Network
from tests.support.calls import failure_of, kinds, read_until
from tests.support.fakes import DEADLINE, until
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart.v1.image_generation_pb2_grpc import ImageGenerationServiceStub


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[InProcessServer]:
    # A port: the two ends of a Unix socket have no address that distinguishes connections.
    async with running_server(network=Network("127.0.0.1:0"), capacity=8) as running:
        yield running


def ask(stub: Any, prompt: str) -> Any:
    return stub.GenerateImage(GenerateImageRequest(prompt=prompt), timeout=DEADLINE)


def images(server: InProcessServer) -> Any:
    """Returns a stub with a connection of its own, which makes it a client of its own."""
    return ImageGenerationServiceStub(server.channel(f"127.0.0.1:{server.public.port}"))


async def ask_often(server: InProcessServer, count: int) -> list[Any]:
    """Sends requests of one client, each after the one before was accepted."""
    stub, calls = images(server), []
    for n in range(count):
        calls.append(ask(stub, f"greedy {n}"))
        await server.accepted(n + 1)
    return calls


async def test_one_image_waits_for_two_of_another_clients_many(
    server: InProcessServer,
) -> None:
    server.engine.hold()
    many = await ask_often(server, 8)
    one = ask(images(server), "modest")
    await server.accepted(9)
    server.engine.free()
    await asyncio.gather(*(kinds(call) for call in (*many, one)))
    # One is generated already, one is ready to follow it.
    assert server.prompts.index("modest") == 2
    assert [p for p in server.prompts if p != "modest"] == [f"greedy {n}" for n in range(8)]


async def test_a_client_that_fills_the_queue_does_not_block_others(server: InProcessServer) -> None:
    server.engine.hold()
    greedy = images(server)
    many = [ask(greedy, f"greedy {n}") for n in range(9)]
    await server.accepted(9)
    assert (await failure_of(ask(greedy, "one more"))).reason == "QUEUE_FULL"
    others = [ask(images(server), f"modest {n}") for n in range(8)]
    await server.accepted(17)
    # As many again, and no more than that.
    assert (await failure_of(ask(images(server), "too late"))).reason == "QUEUE_FULL"
    server.engine.free()
    await asyncio.gather(*(kinds(call) for call in (*many, *others)))
    assert len(server.prompts) == 17


async def test_a_request_that_falls_behind_a_new_client_gets_its_position(
    server: InProcessServer,
) -> None:
    server.engine.hold()
    many = await ask_often(server, 4)
    assert (await read_until(many[3], "queued")).queued.position == 3
    one = ask(images(server), "modest")
    await server.accepted(5)
    assert (await read_until(many[3], "queued")).queued.position == 4
    await until(lambda: server.engine.entered("step") > 0)
    server.engine.free()
    await asyncio.gather(*(kinds(call) for call in (*many, one)))
