"""ListAdapters and WatchAdapters, with a hand-written manager."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

import wuliart_client
from tests.support.fakes import DEADLINE, until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from wuliart.v1 import adapter_pb2 as pb


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def manager(server: InProcessServer) -> AsyncIterator[HandManager]:
    async with HandManager(server) as attached:
        yield attached


def watch(server: InProcessServer, token: str = "") -> Any:
    request = pb.WatchAdaptersRequest(resume_token=token)
    return server.adapters().WatchAdapters(request, timeout=DEADLINE)


async def news(call: Any) -> tuple[str, Any, pb.WatchAdaptersResponse]:
    response = await call.read()
    kind = response.WhichOneof("event")
    return kind, getattr(response, kind), response


async def listed(server: InProcessServer) -> pb.ListAdaptersResponse:
    response: pb.ListAdaptersResponse = await server.adapters().ListAdapters(
        pb.ListAdaptersRequest()
    )
    return response


async def test_no_adapters(server: InProcessServer) -> None:
    assert not (await listed(server)).adapters
    kind, snapshot, _ = await news(watch(server))
    assert (kind, len(snapshot.adapters)) == ("snapshot", 0)


async def test_the_list_is_sorted_and_complete(
    server: InProcessServer, manager: HandManager
) -> None:
    resident = await manager.load("ink")
    await manager.report(
        resident,
        entry_of("sub/adapter", b"abc", title="AdapterWeight", trigger_words=["x", "y"]),
        entry_of("broken", refusal_reason="zero matching tensors"),
    )
    response = await listed(server)
    assert [a.name for a in response.adapters] == ["broken", "ink", "sub/adapter"]
    broken, ink, adapter = response.adapters
    assert broken.state == pb.ADAPTER_STATE_REFUSED
    assert broken.refusal_reason == "zero matching tensors"
    assert ink.state == pb.ADAPTER_STATE_RESIDENT
    assert ink.content_hash == resident.content_hash
    assert ink.generation > 0 and ink.HasField("resident_since")
    assert ink.HasField("slot") and not ink.pinned
    assert adapter.state == pb.ADAPTER_STATE_AVAILABLE
    assert (adapter.title, list(adapter.trigger_words)) == ("AdapterWeight", ["x", "y"])
    assert (adapter.rank, adapter.size_bytes) == (4, 3)
    assert adapter.generation == 0 and not adapter.HasField("resident_since")
    assert not adapter.HasField("slot")
    assert response.revision > 0


async def test_a_watch_streams_each_change(server: InProcessServer, manager: HandManager) -> None:
    await manager.report(entry_of("ink"))
    call = watch(server)
    kind, snapshot, _ = await news(call)
    assert kind == "snapshot"
    assert [a.name for a in snapshot.adapters] == ["ink"]

    seen: list[tuple[str, str, int]] = []
    revisions = []

    async def take(count: int) -> None:
        for _ in range(count):
            kind, adapter, response = await news(call)
            seen.append((kind, adapter.name, adapter.state))
            revisions.append(response.revision)

    await manager.report(entry_of("ink"), entry_of("oil"))
    await take(1)
    resident = await manager.load("ink")
    await take(1)
    await manager.report(resident, entry_of("oil", refusal_reason="NaN"))
    await take(1)
    await manager.report(resident, entry_of("oil", refusal_reason="Inf"))
    await take(1)
    await manager.report(resident, entry_of("oil"))
    await take(1)
    await manager.report(resident)
    await take(1)
    await manager.report(entry_of("bad", refusal_reason="truncated"))
    await take(2)
    assert seen == [
        ("added", "oil", pb.ADAPTER_STATE_AVAILABLE),
        ("updated", "ink", pb.ADAPTER_STATE_RESIDENT),
        ("refused", "oil", pb.ADAPTER_STATE_REFUSED),
        ("refused", "oil", pb.ADAPTER_STATE_REFUSED),
        ("updated", "oil", pb.ADAPTER_STATE_AVAILABLE),
        ("removed", "oil", pb.ADAPTER_STATE_AVAILABLE),
        ("refused", "bad", pb.ADAPTER_STATE_REFUSED),
        ("removed", "ink", pb.ADAPTER_STATE_RESIDENT),
    ]
    assert revisions == sorted(set(revisions))
    assert (await listed(server)).revision == revisions[-1]


async def test_an_unchanged_report_streams_nothing(
    server: InProcessServer, manager: HandManager
) -> None:
    await manager.report(entry_of("ink"))
    before = (await listed(server)).revision
    await manager.report(entry_of("ink"))
    assert (await listed(server)).revision == before


async def test_an_eviction_is_streamed(server: InProcessServer, manager: HandManager) -> None:
    for name in ("a", "b"):
        await manager.load(name)
    call = watch(server)
    await news(call)
    await manager.load("c")
    changes = [(await news(call))[:2] for _ in range(2)]
    assert [(kind, a.name, a.state) for kind, a in changes] == [
        ("updated", "a", pb.ADAPTER_STATE_AVAILABLE),
        ("added", "c", pb.ADAPTER_STATE_RESIDENT),
    ]


async def test_a_pinned_adapter_stays_and_is_listed_as_pinned() -> None:
    async with running_server(pinned=("a",)) as server, HandManager(server) as manager:
        for name in "abc":
            entry = await manager.load(name)
        states = {a.name: (a.state, a.pinned) for a in (await listed(server)).adapters}
        assert states == {
            "a": (pb.ADAPTER_STATE_RESIDENT, True),
            "b": (pb.ADAPTER_STATE_AVAILABLE, False),
            "c": (pb.ADAPTER_STATE_RESIDENT, False),
        }
        async with wuliart_client.AsyncClient(server.target) as client:
            pinned, _, other = await client.adapters()
        assert (pinned.pinned, other.pinned) == (True, False)
        assert sorted([pinned.slot or 0, other.slot or 0]) in ([0, 1], [0, 2], [1, 2])
        await manager.report(entry)
        assert [a.name for a in (await listed(server)).adapters] == ["c"]


async def test_a_resume_token_continues_the_stream(
    server: InProcessServer, manager: HandManager
) -> None:
    call = watch(server)
    _, _, response = await news(call)
    call.cancel()
    await manager.report(entry_of("a"), entry_of("b"))
    call = watch(server, response.resume_token)
    kind, adapter, response = await news(call)
    assert (kind, adapter.name) == ("added", "a")
    call.cancel()
    call = watch(server, response.resume_token)
    kind, adapter, response = await news(call)
    assert (kind, adapter.name) == ("added", "b")
    call.cancel()
    # Nothing was missed: the next thing to come is the next change, without a snapshot.
    call = watch(server, response.resume_token)
    await manager.report(entry_of("b"))
    kind, adapter, _ = await news(call)
    assert (kind, adapter.name) == ("removed", "a")


async def test_a_token_too_old_begins_with_a_snapshot(
    server: InProcessServer, manager: HandManager
) -> None:
    _, _, first = await news(watch(server))
    for revision in range(20):
        await manager.report(*(entry_of(f"{revision}-{n}") for n in range(60)))
    kind, snapshot, _ = await news(watch(server, first.resume_token))
    assert (kind, len(snapshot.adapters)) == ("snapshot", 60)


async def test_a_token_of_an_earlier_server_begins_with_a_snapshot(
    server: InProcessServer, manager: HandManager
) -> None:
    async with running_server() as earlier:
        _, _, old = await news(watch(earlier))
    await manager.report(entry_of("ink"))
    kind, snapshot, _ = await news(watch(server, old.resume_token))
    assert (kind, [a.name for a in snapshot.adapters]) == ("snapshot", ["ink"])


@pytest.mark.parametrize(
    "token",
    ["garbage", ":", "{epoch}", "{epoch}:", "{epoch}:-1", "{epoch}:1e3", "{epoch}:99", "{epoch}:٣"],
)
async def test_a_garbage_token_begins_with_a_snapshot(
    server: InProcessServer, manager: HandManager, token: str
) -> None:
    await manager.report(entry_of("ink"))
    kind, snapshot, _ = await news(watch(server, token.format(epoch=server.store.epoch)))
    assert (kind, [a.name for a in snapshot.adapters]) == ("snapshot", ["ink"])


async def test_a_token_of_very_many_digits_begins_with_a_snapshot(server: InProcessServer) -> None:
    """Python refuses to convert more than 4,300 digits."""
    kind, _, _ = await news(watch(server, f"{server.store.epoch}:{'9' * 5000}"))
    assert kind == "snapshot"


async def test_a_change_while_the_snapshot_is_being_sent_is_not_lost(
    server: InProcessServer, manager: HandManager
) -> None:
    many = [entry_of(f"adapter-{n:04}", title="t" * 4000) for n in range(3000)]
    await manager.report(*many)
    call = watch(server)
    # The snapshot is on its way, and far larger than what the connection takes in unread.
    await call.initial_metadata()
    await manager.load("the newest")
    count = 0
    while count < len(many):
        kind, snapshot, _ = await news(call)
        count += len(snapshot.adapters)
        assert (kind, snapshot.more) == ("snapshot", count < len(many))
    kind, adapter, _ = await news(call)
    assert (kind, adapter.name) == ("added", "the newest")


async def test_several_watchers_and_one_that_leaves(
    server: InProcessServer, manager: HandManager
) -> None:
    calls = [watch(server) for _ in range(3)]
    for call in calls:
        await news(call)
    calls[1].cancel()
    await manager.report(entry_of("ink"))
    for call in (calls[0], calls[2]):
        kind, adapter, _ = await news(call)
        assert (kind, adapter.name) == ("added", "ink")


async def test_adapters_outlive_their_manager(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await manager.load("ink")
    await until(lambda: not server.store.manager_attached)
    (ink,) = (await listed(server)).adapters
    assert ink.state == pb.ADAPTER_STATE_RESIDENT
    async with wuliart_client.AsyncClient(server.target) as client:
        image = await client.generate_image("a cat", adapters=["ink"])
    assert [(use.name, use.generation) for use in image.adapters] == [("ink", ink.generation)]


async def test_the_client_package_lists_and_watches(
    server: InProcessServer, manager: HandManager
) -> None:
    async with wuliart_client.AsyncClient(server.target) as client:
        async with client.watch(timeout=DEADLINE) as news_stream:
            assert (await anext(news_stream)).adapters == ()
            await manager.load("ink")
            event = await anext(news_stream)
        (adapter,) = await client.adapters()
        assert event.kind is wuliart_client.AdapterEventKind.ADDED
        assert event.adapter == adapter
        assert adapter.state is wuliart_client.AdapterState.RESIDENT
