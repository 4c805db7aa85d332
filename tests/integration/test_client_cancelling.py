"""The ways to leave a call that differ between the two clients."""

from __future__ import annotations

import asyncio
import threading

import pytest

from tests.support.fake_image_server import DEADLINE, FakeImageServer, Hold, started
from wuliart_client import AsyncClient, Cancelled, Client, Started


@pytest.fixture
def fake():
    with FakeImageServer() as server:
        server.default = [started(), Hold()]
        yield server


async def cancelled_at(fake: FakeImageServer) -> bool:
    return await asyncio.to_thread(fake.cancelled.wait, DEADLINE)


def test_break_cancels(fake):
    with Client(fake.target) as client:
        for event in client.generate("p"):
            assert isinstance(event, Started)
            break
        assert fake.cancelled.wait(DEADLINE)


def test_close_cancels_and_ends_the_iteration(fake):
    with Client(fake.target) as client:
        events = client.generate("p")
        next(events)
        events.close()
        assert list(events) == []
        assert fake.cancelled.wait(DEADLINE)


def test_cancel_from_another_thread(fake):
    with Client(fake.target) as client:
        events = client.generate("p")
        next(events)
        timer = threading.Timer(0.1, events.cancel)
        timer.start()
        with pytest.raises(Cancelled):
            next(events)
        timer.join()
        assert list(events) == []
        assert fake.cancelled.wait(DEADLINE)


def test_closing_the_client_cancels(fake):
    client = Client(fake.target)
    events = client.generate("p")
    next(events)
    client.close()
    assert fake.cancelled.wait(DEADLINE)
    with pytest.raises(Cancelled):
        next(events)
    with pytest.raises(RuntimeError, match="closed"):
        client.info()


async def test_async_break_cancels(fake):
    async with AsyncClient(fake.target) as client:
        async for event in client.generate("p"):
            assert isinstance(event, Started)
            break
        assert await cancelled_at(fake)


async def test_async_cancel_by_another_task(fake):
    async with AsyncClient(fake.target) as client:
        events = client.generate("p")
        await anext(events)
        asyncio.get_running_loop().call_later(0.1, events.cancel)
        with pytest.raises(Cancelled):
            await anext(events)
        assert [event async for event in events] == []
        assert await cancelled_at(fake)


async def test_cancelling_the_task_cancels_the_call(fake):
    async with AsyncClient(fake.target) as client:
        task = asyncio.create_task(client.generate_image("p"))
        assert await asyncio.to_thread(fake.holding.wait, DEADLINE)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await cancelled_at(fake)


async def test_asyncio_timeout_cancels_the_call(fake):
    async with AsyncClient(fake.target) as client:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await client.generate_image("p")
        assert await cancelled_at(fake)


async def test_async_aclose_ends_the_iteration(fake):
    client = AsyncClient(fake.target)
    events = client.generate("p")
    await anext(events)
    await events.aclose()
    assert [event async for event in events] == []
    assert await cancelled_at(fake)
    await client.aclose()
    with pytest.raises(RuntimeError, match="closed"):
        await client.info()
