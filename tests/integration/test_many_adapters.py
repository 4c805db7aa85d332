"""Ten thousand adapters with the longest descriptions: no message is too long for stock clients."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import httpx
import pytest
from grpc import aio

from inference_server.adapters.records import FileEntry
from tests.support.calls import failure_of
from tests.support.fake_image_server import FakeImageServer, adapter, change, snapshot
from tests.support.fakes import DEADLINE
from tests.support.harness import InProcessServer, name_model, running_server
from tests.support.web_app import open_web
from wuliart.v1 import adapter_pb2 as pb
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub
from wuliart_client import AdapterEventKind, AsyncClient, Client, ProtocolError, _adapters
from wuliart_contract.limits import MAX_LISTED_ADAPTERS

STOCK_BYTES = 4 << 20
"""Size of a message that a gRPC client accepts by default."""

NAMES = [f"adapter-{n:05}" for n in range(MAX_LISTED_ADAPTERS)]


def usual(name: str) -> FileEntry:
    return FileEntry(name, name.title(), ("ink wash", "brush"), 16, 1 << 24, "ab" * 32)


def longest(name: str) -> FileEntry:
    """As long as the server shows anything, four bytes a character."""
    reason, words = "𝕏" * 1_000, tuple(f"{n:02}" + "𝕏" * 98 for n in range(32))
    full = name + "𝕏" * (200 - len(name))
    return FileEntry(full, "𝕏" * 120, words, 16, 1 << 40, "ab" * 32, reason, waiting_reason=reason)


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def stock(server: InProcessServer) -> AsyncIterator[Any]:
    """Calls over a channel that was given no option."""
    async with aio.insecure_channel(server.target) as channel:
        yield AdapterServiceStub(channel)


def fill(server: InProcessServer, entries: Sequence[FileEntry]) -> None:
    server.store.catalog.replace(entries)


async def listed(stub: Any, **fields: Any) -> list[pb.ListAdaptersResponse]:
    """All pages."""
    found = [await stub.ListAdapters(pb.ListAdaptersRequest(**fields), timeout=DEADLINE)]
    while token := found[-1].next_page_token:
        request = pb.ListAdaptersRequest(page_token=token, **fields)
        found.append(await stub.ListAdapters(request, timeout=DEADLINE))
    return found


def names(messages: Sequence[Any]) -> list[str]:
    return [a.name for message in messages for a in message.adapters]


async def test_a_stock_client_lists_and_watches_ten_thousand(
    server: InProcessServer, stock: Any
) -> None:
    fill(server, [usual(name) for name in NAMES])
    found = await listed(stock)
    assert names(found) == NAMES and len({page.revision for page in found}) == 1
    call = stock.WatchAdapters(pb.WatchAdaptersRequest(), timeout=DEADLINE)
    parts = [await call.read()]
    while parts[-1].snapshot.more:
        parts.append(await call.read())
    assert names([part.snapshot for part in parts]) == NAMES
    assert {part.revision for part in parts} == {server.store.catalog.revision}
    # From a part that is not the last there is no way on: the rest would be missing.
    assert [bool(part.resume_token) for part in parts] == [False] * (len(parts) - 1) + [True]
    resumed = stock.WatchAdapters(
        pb.WatchAdaptersRequest(resume_token=parts[-1].resume_token), timeout=DEADLINE
    )
    fill(server, [usual(name) for name in [*NAMES, "z"]])
    assert (await call.read()).added.name == (await resumed.read()).added.name == "z"


async def test_the_longest_descriptions_stay_below_what_a_stock_client_accepts(
    server: InProcessServer, stock: Any
) -> None:
    fill(server, [longest(name) for name in NAMES[:400]])
    found = await listed(stock)
    assert [name[: len(NAMES[0])] for name in names(found)] == NAMES[:400]
    assert len(found) > 2 and max(page.ByteSize() for page in found) < STOCK_BYTES / 3
    call = stock.WatchAdapters(pb.WatchAdaptersRequest(), timeout=DEADLINE)
    count = 0
    while count < 400:
        part = await call.read()
        assert part.ByteSize() < STOCK_BYTES / 3
        count += len(part.snapshot.adapters)


async def test_pages_of_a_size_while_adapters_come_and_go(
    server: InProcessServer, stock: Any
) -> None:
    fill(server, [usual(name) for name in "acegik"])
    first = await stock.ListAdapters(pb.ListAdaptersRequest(page_size=2))
    assert names([first]) == ["a", "c"]
    # The last one of the page is gone, and others stand before and behind it.
    fill(server, [usual(name) for name in "abdegik"])
    request = pb.ListAdaptersRequest(page_size=2, page_token=first.next_page_token)
    second = await stock.ListAdapters(request)
    assert names([second]) == ["d", "e"] and second.revision > first.revision
    assert [len(page.adapters) for page in await listed(stock, page_size=3)] == [3, 3, 1]
    assert [len(page.adapters) for page in await listed(stock, page_size=7)] == [7]
    assert [len(page.adapters) for page in await listed(stock, page_size=2**31 - 1)] == [7]
    fill(server, [])
    assert names(await listed(stock)) == []
    assert names([await stock.ListAdapters(request)]) == []


@pytest.mark.parametrize("token", ["é", "a", "AAAA=AAAA", "__79", "!" * 5000])
async def test_a_page_token_of_elsewhere_and_a_negative_size_are_named(
    server: InProcessServer, token: str
) -> None:
    request = pb.ListAdaptersRequest(page_size=-1, page_token=token)
    failure = await failure_of(server.adapters().ListAdapters(request))
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert list(failure.violations) == ["page_size", "page_token"]


async def test_the_clients_and_the_page_put_them_together(server: InProcessServer) -> None:
    fill(server, [usual(name) for name in NAMES])

    def synchronously() -> tuple[int, int]:
        with Client(server.target) as client, client.watch() as events:
            return len(client.adapters()), len(next(events).adapters)

    async with AsyncClient(server.target) as client, client.watch() as events:
        event = await anext(events)
        assert event.kind is AdapterEventKind.SNAPSHOT and event.resume_token
        assert [a.name for a in event.adapters] == NAMES
        assert [a.name for a in await client.adapters()] == NAMES
    assert await asyncio.to_thread(synchronously) == (len(NAMES), len(NAMES))
    async with (
        open_web(server.target) as port,
        httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE) as http,
    ):
        models = (await http.get("/v1/models")).json()["data"]
        assert {model["id"] for model in models} >= set(NAMES)


def parts(first: int, last: int) -> list[pb.WatchAdaptersResponse]:
    split = [snapshot(3, adapter(f"a{n}")) for n in range(first, last)]
    for part in split[:-1]:
        part.snapshot.more, part.resume_token = True, ""
    return split


def test_a_watch_that_ends_within_a_snapshot_begins_afresh() -> None:
    with FakeImageServer() as fake, Client(fake.target) as client:
        fake.watches.extend([parts(0, 3)[:2], parts(0, 3)])
        with client.watch() as events:
            assert list(events) == []
        with client.watch() as events:
            assert [len(event.adapters) for event in events] == [3]
        fake.watches.append([parts(0, 2)[0], change(4, added=adapter("b"))])
        with client.watch() as events, pytest.raises(ProtocolError, match="middle of a snapshot"):
            next(events)


def test_a_list_that_goes_round_in_a_circle_ends() -> None:
    reader = _adapters.ListReader()
    for token in ("a", "b"):
        reader.read(pb.ListAdaptersResponse(adapters=[adapter(token)], next_page_token=token))
        assert reader.request is not None and reader.request.page_token == token
    with pytest.raises(ProtocolError, match="does not end"):
        reader.read(pb.ListAdaptersResponse(next_page_token="a"))
