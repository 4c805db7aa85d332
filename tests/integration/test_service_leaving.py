"""Clients that leave, deadlines that pass, and a queue that is full."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import wuliart_client
from tests.support.calls import failure_of, kinds, read_until
from tests.support.fakes import until
from tests.support.harness import InProcessServer, running_server
from wuliart.v1.image_generation_pb2 import GenerateImageRequest


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        running.engine.hold()
        yield running


async def queue(server: InProcessServer, count: int) -> list[Any]:
    """Returns calls of which the first runs and the others wait, in this order."""
    calls = []
    for n in range(count):
        calls.append(server.generate(f"image {n}"))
        await server.accepted(n + 1)
        if n == 0:
            await until(lambda: server.engine.entered("step") > 0)
    return calls


async def test_cancel_stops_before_the_next_step_and_skips_the_decode(
    server: InProcessServer,
) -> None:
    leaver, follower = await queue(server, 2)
    server.engine.let(1)
    assert (await read_until(leaver, "step")).step.step == 1
    await until(lambda: server.engine.entered("step") == 2)
    leaver.cancel()
    await server.let_go(0)
    server.engine.free()
    assert (await kinds(follower))[-1] == "completed"
    assert server.engine.images[0].done == 2
    of_leaver = server.stages[: server.stages.index("encode", 1)]
    assert of_leaver == ["encode", "begin", "step", "step"]
    assert server.engine.entered("decode") == 1


async def test_a_connection_that_breaks_is_a_cancel(server: InProcessServer) -> None:
    channel = server.channel()
    method: Any = channel.unary_stream(
        "/wuliart.v1.ImageGenerationService/GenerateImage",
        request_serializer=GenerateImageRequest.SerializeToString,
    )
    call = method(GenerateImageRequest(prompt="a lighthouse"))
    await call.read()
    await until(lambda: server.engine.entered("step") > 0)
    await channel.close()
    await server.let_go(0)
    server.engine.free()
    await until(lambda: server.scheduler.queue_length == 0)
    assert server.stages == ["encode", "begin", "step"]


async def test_a_cancel_during_the_last_step_skips_the_decode(server: InProcessServer) -> None:
    call = server.generate(steps=1)
    await until(lambda: server.engine.entered("step") > 0)
    call.cancel()
    await server.let_go(0)
    server.engine.free()
    await until(lambda: server.scheduler.queue_length == 0)
    assert "decode" not in server.stages


async def test_a_deadline_that_passes_stops_the_work(server: InProcessServer) -> None:
    request = GenerateImageRequest(prompt="a lighthouse")
    call = server.images().GenerateImage(request, timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kinds(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await server.let_go(0)
    server.engine.free()
    await until(lambda: server.scheduler.queue_length == 0)
    assert server.stages in (["encode", "begin", "step"], ["encode", "begin"], [])
    assert (await kinds(server.generate(steps=1)))[-1] == "completed"


async def test_a_deadline_that_passes_in_the_queue(server: InProcessServer) -> None:
    (first,) = await queue(server, 1)
    async with wuliart_client.AsyncClient(server.target) as client:
        with pytest.raises(wuliart_client.DeadlineExceeded):
            await client.generate_image("too late", timeout=0.2)
    await server.let_go(1)
    server.engine.free()
    await kinds(first)
    assert "too late" not in server.prompts


async def test_a_full_queue_refuses_before_the_first_event(server: InProcessServer) -> None:
    calls = await queue(server, 3)
    refused = server.generate("one too many")
    assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    failure = await failure_of(refused)
    assert failure.reason == "QUEUE_FULL"
    assert failure.retry_seconds is not None and failure.retry_seconds > 0
    async with wuliart_client.AsyncClient(server.target) as client:
        with pytest.raises(wuliart_client.QueueFull) as caught:
            await client.generate_image("one too many")
    assert caught.value.retry_after == failure.retry_seconds
    server.engine.free()
    for call in calls:
        assert (await kinds(call))[-1] == "completed"
    assert "one too many" not in server.prompts
    assert (await kinds(server.generate()))[-1] == "completed"


async def test_a_client_that_leaves_the_queue_frees_a_place(server: InProcessServer) -> None:
    drawn, waits, leaver = await queue(server, 3)
    leaver.cancel()
    await server.let_go(2)
    newcomer = server.generate("newcomer")
    assert (await newcomer.read()).queued.position == 2
    server.engine.free()
    for call in (drawn, waits, newcomer):
        assert (await kinds(call))[-1] == "completed"
    assert server.prompts == ["image 0", "image 1", "newcomer"]


async def test_the_next_request_frees_its_place_at_once(server: InProcessServer) -> None:
    """While the image before it is still being generated, not only when that one is done."""
    drawn, leaver, waits = await queue(server, 3)
    leaver.cancel()
    await server.let_go(1)
    await until(lambda: server.scheduler.queue_length == 2)
    newcomer = server.generate("newcomer")
    assert (await newcomer.read()).queued.position == 2
    server.engine.free()
    for call in (drawn, waits, newcomer):
        assert (await kinds(call))[-1] == "completed"
    assert server.prompts == ["image 0", "image 2", "newcomer"]


async def test_all_clients_leave(server: InProcessServer) -> None:
    calls = await queue(server, 3)
    for call in calls:
        call.cancel()
    for n in range(3):
        await server.let_go(n)
    server.engine.free()
    await until(lambda: server.scheduler.queue_length == 0)
    assert server.prompts == ["image 0"]
    assert (await kinds(server.generate()))[-1] == "completed"
