"""Callers that leave, deadlines that pass, and a queue that is full."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import pytest
import wuliart_client

from tests.harness import (
    InProcessServer,
    failure_of,
    kinds,
    read_until,
    running_server,
    until,
)
from wuliart.v1.image_generation_pb2 import GenerateImageRequest


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        running.engine.hold()
        yield running


async def let_go(server: InProcessServer, n: int) -> None:
    """The service has noticed that the n-th caller is gone."""
    await until(lambda: server.scheduler.submitted[n].cancelled)


async def queue(server: InProcessServer, count: int) -> list[object]:
    """Calls of which the first is being drawn and the others wait, in this order."""
    calls = []
    for n in range(count):
        calls.append(server.generate(f"picture {n}"))
        await until(lambda n=n: len(server.scheduler.submitted) == n + 1)
        if n == 0:
            await until(lambda: "step" in server.engine.calls)
    return calls


async def test_cancel_stops_before_the_next_step_and_skips_the_decode(
    server: InProcessServer,
) -> None:
    leaver, follower = await queue(server, 2)
    server.engine.let(1)
    assert (await read_until(leaver, "step")).step.step == 1
    await until(lambda: server.engine.calls.count("step") == 2)
    leaver.cancel()  # type: ignore[attr-defined]
    await let_go(server, 0)
    server.engine.release()
    assert (await kinds(follower))[-1] == "completed"
    assert server.engine.drawings[0].step == 2
    of_leaver = server.engine.calls[: server.engine.calls.index("encode", 1)]
    assert of_leaver == ["encode", "begin", "step", "step"]
    assert server.engine.calls.count("decode") == 1


async def test_a_connection_that_breaks_is_a_cancel(server: InProcessServer) -> None:
    channel = server.channel()
    call = channel.unary_stream(
        "/wuliart.v1.ImageGenerationService/GenerateImage",
        request_serializer=GenerateImageRequest.SerializeToString,
    )(GenerateImageRequest(prompt="a lighthouse"))
    await call.read()
    await until(lambda: "step" in server.engine.calls)
    await channel.close()
    await let_go(server, 0)
    server.engine.release()
    await until(lambda: server.scheduler.queue_length == 0)
    assert server.engine.calls == ["encode", "begin", "step"]


async def test_a_cancel_during_the_last_step_skips_the_decode(server: InProcessServer) -> None:
    call = server.generate(steps=1)
    await until(lambda: "step" in server.engine.calls)
    call.cancel()
    await let_go(server, 0)
    server.engine.release()
    await until(lambda: server.scheduler.queue_length == 0)
    assert "decode" not in server.engine.calls


async def test_a_deadline_that_passes_stops_the_work(server: InProcessServer) -> None:
    request = GenerateImageRequest(prompt="a lighthouse")
    call = server.images().GenerateImage(request, timeout=0.2)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await kinds(call)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await let_go(server, 0)
    server.engine.release()
    await until(lambda: server.scheduler.queue_length == 0)
    assert server.engine.calls in (["encode", "begin", "step"], ["encode", "begin"], [])
    assert (await kinds(server.generate(steps=1)))[-1] == "completed"


async def test_a_deadline_that_passes_in_the_queue(server: InProcessServer) -> None:
    (first,) = await queue(server, 1)
    async with wuliart_client.AsyncClient(server.target) as client:
        with pytest.raises(wuliart_client.DeadlineExceeded):
            await client.draw("too late", timeout=0.2)
    await let_go(server, 1)
    server.engine.release()
    await kinds(first)
    assert "too late" not in server.engine.prompts


async def test_a_full_queue_refuses_before_the_first_event(server: InProcessServer) -> None:
    calls = await queue(server, 3)
    refused = server.generate("one too many")
    assert await refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    failure = await failure_of(refused)
    assert failure.reason == "QUEUE_FULL"
    assert failure.retry_seconds is not None and failure.retry_seconds > 0
    async with wuliart_client.AsyncClient(server.target) as client:
        with pytest.raises(wuliart_client.QueueFull) as caught:
            await client.draw("one too many")
    assert caught.value.retry_after == failure.retry_seconds
    server.engine.release()
    for call in calls:
        assert (await kinds(call))[-1] == "completed"
    assert "one too many" not in server.engine.prompts
    assert (await kinds(server.generate()))[-1] == "completed"


async def test_who_leaves_the_queue_frees_a_place(server: InProcessServer) -> None:
    drawn, waits, leaver = await queue(server, 3)
    leaver.cancel()  # type: ignore[attr-defined]
    await let_go(server, 2)
    newcomer = server.generate("newcomer")
    assert (await newcomer.read()).queued.position == 2
    server.engine.release()
    for call in (drawn, waits, newcomer):
        assert (await kinds(call))[-1] == "completed"
    assert server.engine.prompts == ["picture 0", "picture 1", "newcomer"]


async def test_the_next_in_line_frees_its_place_at_once(server: InProcessServer) -> None:
    """While the picture before it is still being drawn, not only when that one is done."""
    drawn, leaver, waits = await queue(server, 3)
    leaver.cancel()  # type: ignore[attr-defined]
    await let_go(server, 1)
    await until(lambda: server.scheduler.queue_length == 2)
    newcomer = server.generate("newcomer")
    assert (await newcomer.read()).queued.position == 2
    server.engine.release()
    for call in (drawn, waits, newcomer):
        assert (await kinds(call))[-1] == "completed"
    assert server.engine.prompts == ["picture 0", "picture 2", "newcomer"]


async def test_everybody_leaves(server: InProcessServer) -> None:
    calls = await queue(server, 3)
    for call in calls:
        call.cancel()  # type: ignore[attr-defined]
    for n in range(3):
        await let_go(server, n)
    server.engine.release()
    await until(lambda: server.scheduler.queue_length == 0)
    assert server.engine.prompts == ["picture 0"]
    assert (await kinds(server.generate()))[-1] == "completed"
