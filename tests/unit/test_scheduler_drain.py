"""Draining: accepted images are finished or fail with DRAINING, and no resource leaks."""

from __future__ import annotations

import asyncio

import pytest

from inference_server.errors import RequestError
from inference_server.scheduler import jpeg_thread as jpeg_module
from inference_server.scheduler.device_thread import device_thread
from inference_server.scheduler.scheduler import Scheduler
from tests.support.fake_binder import FakeBinder
from tests.support.fakes import DEADLINE, FakeEngine, settle, until
from tests.support.scheduler_bench import Bench, Client
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> Bench:
    bench = Bench()
    return bench


def assert_nothing_leaks(bench: Bench) -> None:
    assert bench.binder.balanced, "a binding was not released exactly once"
    assert bench.scheduler.queue_length == 0
    assert bench.tasks() == set()
    assert bench.new_threads() == set()


def assert_draining(client: Client) -> None:
    assert isinstance(client.error, RequestError)
    assert client.error.reason is Reason.DRAINING


async def test_an_idle_scheduler_drains_at_once(bench: Bench) -> None:
    await asyncio.wait_for(bench.scheduler.drain(1000), DEADLINE)
    await settle()
    assert_nothing_leaks(bench)


async def test_an_unused_scheduler_drains() -> None:
    scheduler = Scheduler(
        FakeEngine(), FakeBinder(), device_thread(), capacity=3, describe=lambda request, uses: ""
    )
    await asyncio.wait_for(scheduler.drain(1000), DEADLINE)


async def test_accepted_images_are_finished_and_new_ones_refused(bench: Bench) -> None:
    bench.engine.hold()
    clients = [bench.submit(seed) for seed in range(3)]
    await until(lambda: bench.engine.entered("step") == 1)
    drain = asyncio.create_task(bench.scheduler.drain(1000), name="client")
    await settle()
    with pytest.raises(RequestError) as caught:
        bench.submit(9)
    assert caught.value.reason is Reason.DRAINING
    assert not drain.done()
    bench.engine.free()
    await asyncio.wait_for(drain, DEADLINE)
    for client in clients:
        await client.ended()
        assert client.error is None
        assert client.image.seed == client.seed
    await settle()
    assert_nothing_leaks(bench)


async def test_the_drain_waits_for_the_last_jpeg(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slowly(pixels: object, text: str) -> bytes:
        encoding.set()
        return wait_for_loop()

    def wait_for_loop() -> bytes:
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result(10)
        return b"jpeg"

    loop, encoding, go = asyncio.get_running_loop(), asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(jpeg_module, "encode_image", slowly)
    client = bench.submit(1)
    await until(encoding.is_set)
    drain = asyncio.create_task(bench.scheduler.drain(1000), name="client")
    await settle()
    assert not drain.done()
    go.set()
    await asyncio.wait_for(drain, DEADLINE)
    await client.ended()
    assert client.image.image == b"jpeg"


async def test_the_drain_ends_when_the_last_client_leaves(bench: Bench) -> None:
    bench.binder.hold()
    client = bench.submit(1)
    await until(lambda: len(bench.binder.requested) == 1)
    drain = asyncio.create_task(bench.scheduler.drain(1000), name="client")
    await settle()
    client.leave()
    await asyncio.wait_for(drain, DEADLINE)
    await settle()
    assert_nothing_leaks(bench)


async def test_after_the_grace_unfinished_requests_fail(bench: Bench) -> None:
    """One request is in a step, one has its adapters bound, one waits."""
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    others = [bench.submit(seed) for seed in (1, 2)]
    await until(lambda: len(bench.binder.bound) == 2)
    await settle()
    drain = asyncio.create_task(bench.scheduler.drain(0), name="client")
    for client in (first, *others):
        await client.ended()
        assert_draining(client)
    assert not drain.done(), "the step in progress still uses its adapters"
    bench.engine.free()
    await asyncio.wait_for(drain, DEADLINE)
    assert bench.engine.entered("step") == 1
    assert bench.engine.entered("decode") == 0
    await settle()
    assert_nothing_leaks(bench)


async def test_after_the_grace_a_bind_is_cancelled(bench: Bench) -> None:
    bench.binder.hold()
    clients = [bench.submit(seed) for seed in (0, 1)]
    await until(lambda: len(bench.binder.requested) == 1)
    await asyncio.wait_for(bench.scheduler.drain(0), DEADLINE)
    for client in clients:
        await client.ended()
        assert_draining(client)
    await settle()
    assert bench.binder.cancelled == 1
    assert_nothing_leaks(bench)


@pytest.mark.parametrize("turns", range(4))
async def test_a_binding_that_arrives_with_the_end_of_the_grace_is_released(
    bench: Bench, turns: int
) -> None:
    bench.binder.hold()
    client = bench.submit(0)
    await until(lambda: len(bench.binder.requested) == 1)
    bench.binder.free()
    for _ in range(turns):
        await asyncio.sleep(0)
    await asyncio.wait_for(bench.scheduler.drain(0), DEADLINE)
    await client.ended()
    await settle()
    assert_nothing_leaks(bench)


async def test_a_drain_during_a_cancelled_bind_leaves_no_task(bench: Bench) -> None:
    bench.binder.hold()
    bench.binder.cancel_seconds = 0.2
    client = bench.submit(0)
    await until(lambda: len(bench.binder.requested) == 1)
    client.leave()
    await until(lambda: bench.binder.cancelled == 1)
    await asyncio.wait_for(bench.scheduler.drain(0), DEADLINE)
    await until(lambda: bench.tasks() == set())
    await settle()
    assert_nothing_leaks(bench)


async def test_the_drain_returns_after_a_cancelled_bind_has_ended(bench: Bench) -> None:
    """The process closes the loop and frees the memory next."""
    bench.binder.hold()
    bench.binder.cancel_seconds = 0.05
    bench.submit(0)
    await until(lambda: len(bench.binder.requested) == 1)
    await asyncio.wait_for(bench.scheduler.drain(0), DEADLINE)
    assert_nothing_leaks(bench)
