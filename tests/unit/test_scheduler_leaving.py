"""Clients that leave and images that fail, at every stage, do not affect other requests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from inference_server.scheduler import jpeg_thread as jpeg_module
from inference_server.scheduler.events import Completed, Queued
from tests.support.fakes import settle, until
from tests.support.scheduler_bench import Bench
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench() as bench:
        yield bench


async def test_a_request_that_left_the_queue_is_never_begun(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    second, third = bench.submit(1), bench.submit(2)
    await settle()
    third.leave()
    second.leave()
    assert bench.scheduler.queue_length <= 2
    bench.engine.free()
    await first.ended()
    last = bench.submit(3)
    await last.ended()
    assert [image.seed for image in bench.engine.images] == [0, 3]
    assert bench.scheduler.queue_length == 0


async def test_leaving_while_adapters_are_loaded_lets_the_next_request_load(bench: Bench) -> None:
    bench.binder.hold()
    leaver = bench.submit(1, adapters=(AdapterWeight("a", 1.0),))
    await until(lambda: len(bench.binder.requested) == 1)
    following = bench.submit(2)
    leaver.leave()
    await until(lambda: len(bench.binder.requested) == 2)
    assert bench.binder.cancelled == 1
    bench.binder.free()
    await following.ended()
    assert following.error is None
    assert bench.engine.entered("encode") == 1
    assert bench.binder.balanced


async def test_leaving_just_as_the_adapters_are_bound_keeps_no_pins(bench: Bench) -> None:
    bench.binder.hold()
    leaver = bench.submit(1)
    await until(lambda: len(bench.binder.requested) == 1)
    bench.binder.free()
    leaver.leave()
    await bench.submit(2).ended()
    assert bench.engine.entered("step", 1) == 0
    assert bench.binder.balanced


async def test_leaving_with_adapters_bound_before_the_start_keeps_no_pins(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    second = bench.submit(1)
    await until(lambda: len(bench.binder.bound) == 2)
    await settle()
    second.leave()
    bench.engine.free()
    await first.ended()
    await bench.submit(2).ended()
    assert bench.engine.entered("encode") == 2
    assert bench.binder.balanced


@pytest.mark.parametrize("turns", range(5))
async def test_leaving_just_as_the_device_becomes_free_does_not_block_it(
    bench: Bench, turns: int
) -> None:
    async def leave() -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        second.leave()

    def release(binding: Binding) -> None:
        released(binding)
        if len(bench.binder.released) == 1:
            leaving.append(asyncio.create_task(leave()))

    leaving: list[asyncio.Task[None]] = []
    released, bench.binder.release = bench.binder.release, release  # type: ignore[method-assign]
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    second = bench.submit(1)
    await until(lambda: len(bench.binder.bound) == 2)
    await settle()
    bench.engine.free()
    await first.ended()
    third = bench.submit(2)
    await third.ended()
    assert third.error is None
    assert bench.binder.balanced


@pytest.mark.parametrize("step", [1, 2, 4])
async def test_leaving_in_a_step_stops_the_work_after_it(bench: Bench, step: int) -> None:
    bench.engine.hold()
    leaver = bench.submit(1)
    bench.engine.let(step - 1)
    await until(lambda: bench.engine.entered("step") == step)
    following = bench.submit(2)
    leaver.leave()
    bench.engine.free()
    await following.ended()
    assert following.error is None
    assert bench.engine.entered("step", 1) == step
    assert bench.engine.entered("decode", 1) == 0
    assert bench.binder.balanced


async def test_leaving_during_the_encode_prevents_the_first_step(bench: Bench) -> None:
    bench.engine.hold("encode")
    leaver = bench.submit(1)
    await until(lambda: bench.engine.entered("encode") == 1)
    leaver.leave()
    bench.engine.free()
    await bench.submit(2).ended()
    assert bench.engine.entered("step", 1) == 0
    assert bench.binder.balanced


async def test_leaving_after_the_image_is_harmless(bench: Bench) -> None:
    first = bench.submit(1)
    await first.ended()
    first.leave()
    first.leave()
    second = bench.submit(2)
    await second.ended()
    assert second.error is None
    assert bench.scheduler.queue_length == 0


STAGES = ["encode", "begin", "step", "preview", "decode"]
FAILURES = [
    ValueError("broken"),
    RequestError(Reason.NON_FINITE, "step 1 of 4 is not finite"),
    RuntimeError("CUDA error: out of memory"),
]


@pytest.mark.parametrize("failure", FAILURES, ids=lambda failure: type(failure).__name__)
@pytest.mark.parametrize("stage", STAGES)
async def test_a_failure_reaches_its_client_only(
    bench: Bench, stage: str, failure: Exception
) -> None:
    bench.engine.fail(stage, failure)
    clients = [bench.submit(seed, preview=True) for seed in (1, 2)]
    for client in clients:
        await client.ended()
    assert clients[0].error is failure
    assert not any(isinstance(event, Completed) for event in clients[0].events)
    assert clients[1].error is None
    assert bench.binder.balanced
    assert bench.scheduler.queue_length == 0


async def test_a_failure_of_the_jpeg_reaches_its_client(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(pixels: object, text: str) -> bytes:
        raise failure

    failure = OSError("encoder error -2")
    with monkeypatch.context() as patched:
        patched.setattr(jpeg_module, "encode_image", fail)
        first = bench.submit(1)
        await first.ended()
    second = bench.submit(2)
    await second.ended()
    assert (first.error, second.error) == (failure, None)
    assert bench.binder.balanced


@pytest.mark.parametrize(
    "failure", [RequestError(Reason.ADAPTER_REFUSED, "rank 99"), KeyError("a fault")]
)
async def test_a_failure_to_bind_reaches_its_client(bench: Bench, failure: Exception) -> None:
    bench.binder.fail(failure)
    first, second = bench.submit(1), bench.submit(2)
    await first.ended()
    await second.ended()
    assert (first.error, second.error) == (failure, None)
    assert [image.seed for image in bench.engine.images] == [2]
    assert first.events == [] or first.positions
    assert bench.binder.balanced


async def test_a_failure_to_bind_moves_up_those_behind(bench: Bench) -> None:
    bench.engine.hold()
    bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    bench.binder.hold()
    bench.binder.fail(RequestError(Reason.ADAPTER_REFUSED, "rank 99"))
    failing, last = bench.submit(1), bench.submit(2)
    await settle()
    bench.binder.free()
    await failing.ended()
    await until(lambda: last.positions == [2, 1])
    bench.engine.free()
    await last.ended()
    assert last.error is None


async def test_many_clients_that_stay_or_leave(bench: Bench) -> None:
    """Some leave; each of the others gets its own image, and no binding leaks."""
    bench.scheduler.capacity = 100
    bench.engine.step_seconds = 0.001
    clients = []
    for seed in range(30):
        clients.append(bench.submit(seed, steps=2, adapters=(AdapterWeight("a", 1.0),)))
        if seed % 5 == 3:
            await asyncio.sleep(0.002)
            clients.pop(seed % len(clients)).leave()
    for client in clients:
        await client.ended()
        assert client.error is None
        assert client.image.seed == client.seed
        assert all(isinstance(event, Queued) for event in client.events[: len(client.positions)])
    await until(lambda: bench.binder.balanced)
    assert bench.scheduler.queue_length == 0
