"""Thumbnails of adapters: what a manager brings, clients list by hash and fetch by name."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest

import wuliart_client
from tests.support.fakes import DEADLINE
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from tests.support.preview_images import image
from wuliart.internal.v1 import segment_pb2
from wuliart.v1 import adapter_pb2 as pb
from wuliart_contract.limits import MAX_THUMBNAIL_BYTES, MAX_THUMBNAILS

RED, BLUE = image("JPEG", (200, 0, 0)), image("JPEG", (0, 0, 200))


def sha(jpeg: bytes) -> str:
    return hashlib.sha256(jpeg).hexdigest()


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def manager(server: InProcessServer) -> AsyncIterator[HandManager]:
    async with HandManager(server) as attached:
        yield attached


async def report(
    manager: HandManager, names: list[str], complete: bool = True, **thumbnails: str
) -> list[str]:
    response = await manager.stub.ReportCatalog(
        segment_pb2.ReportCatalogRequest(
            session_id=manager.attached.session_id,
            entries=[entry_of(name) for name in names],
            thumbnails=[
                segment_pb2.FileThumbnail(name=name, thumbnail_hash=hash_)
                for name, hash_ in thumbnails.items()
            ],
            thumbnails_complete=complete,
        )
    )
    return list(response.missing_thumbnails)


async def put(manager: HandManager, *jpegs: bytes) -> None:
    await manager.stub.PutThumbnails(
        segment_pb2.PutThumbnailsRequest(session_id=manager.attached.session_id, jpegs=jpegs)
    )


async def listed(server: InProcessServer) -> dict[str, str]:
    response: Any = await server.adapters().ListAdapters(pb.ListAdaptersRequest())
    return {adapter.name: adapter.thumbnail_hash for adapter in response.adapters}


async def fetched(server: InProcessServer, name: str) -> pb.GetAdapterThumbnailResponse:
    response: pb.GetAdapterThumbnailResponse = await server.adapters().GetAdapterThumbnail(
        pb.GetAdapterThumbnailRequest(name=name)
    )
    return response


async def test_a_thumbnail_is_listed_once_it_is_there(
    server: InProcessServer, manager: HandManager
) -> None:
    call = server.adapters().WatchAdapters(pb.WatchAdaptersRequest(), timeout=DEADLINE)
    await call.read()
    assert await report(manager, ["ink", "oil"], ink=sha(RED), oil=sha(BLUE)) == sorted(
        [sha(RED), sha(BLUE)]
    )
    assert await listed(server) == {"ink": "", "oil": ""}
    await put(manager, RED)
    assert await listed(server) == {"ink": sha(RED), "oil": ""}
    kinds = [(await call.read()).WhichOneof("event") for _ in range(2)]
    update = await call.read()
    assert kinds == ["added", "added"]
    assert (update.updated.name, update.updated.thumbnail_hash) == ("ink", sha(RED))
    ink = await fetched(server, "ink")
    assert (ink.jpeg, ink.thumbnail_hash) == (RED, sha(RED))
    oil = await fetched(server, "oil")
    assert (oil.jpeg, oil.thumbnail_hash) == (b"", "")


async def test_a_resident_adapter_a_refused_one_and_one_that_waits(
    server: InProcessServer, manager: HandManager
) -> None:
    resident = await manager.load("ink")
    await manager.stub.ReportCatalog(
        segment_pb2.ReportCatalogRequest(
            session_id=manager.attached.session_id,
            entries=[resident, entry_of("bad", refusal_reason="NaN")],
            waiting=[segment_pb2.WaitingFile(name="late", reason="half")],
            thumbnails=[
                segment_pb2.FileThumbnail(name=name, thumbnail_hash=sha(RED))
                for name in ("ink", "bad", "late")
            ],
            thumbnails_complete=True,
        )
    )
    await put(manager, RED)
    assert set((await listed(server)).values()) == {sha(RED)}
    # A change of the image is no change of the adapter.
    await report(manager, [])
    assert await listed(server) == {}


async def test_a_manager_that_starts_again_takes_none_away(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await report(manager, ["ink", "oil"], ink=sha(RED), oil=sha(BLUE))
        await put(manager, RED, BLUE)
    async with HandManager(server) as manager:
        assert await report(manager, ["ink", "oil"], complete=False) == []
        assert await listed(server) == {"ink": sha(RED), "oil": sha(BLUE)}
        assert await report(manager, ["ink", "oil"], oil=sha(BLUE)) == []
        assert await listed(server) == {"ink": "", "oil": sha(BLUE)}


async def test_what_was_not_asked_for_is_not_kept(
    server: InProcessServer, manager: HandManager
) -> None:
    large, text = RED + bytes(MAX_THUMBNAIL_BYTES), b"<script>alert(1)</script>"
    await report(manager, ["ink", "oil", "chalk"], ink=sha(large), oil=sha(text), chalk="../etc")
    await put(manager, large, text, BLUE)
    assert set((await listed(server)).values()) == {""}
    assert server.store.catalog.thumbnails.jpeg(sha(BLUE)) == b""


async def test_reports_and_calls_that_are_wrong(
    server: InProcessServer, manager: HandManager
) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="2001 thumbnails"):
        await report(manager, [], **{f"a{n}": sha(RED) for n in range(MAX_THUMBNAILS + 1)})
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await manager.stub.PutThumbnails(segment_pb2.PutThumbnailsRequest(session_id="x"))
    assert caught.value.code() is grpc.StatusCode.ABORTED
    for name, code in (
        ("", grpc.StatusCode.INVALID_ARGUMENT),
        ("n" * 201, grpc.StatusCode.INVALID_ARGUMENT),
        ("../ink", grpc.StatusCode.NOT_FOUND),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await fetched(server, name)
        assert caught.value.code() is code


async def test_the_clients_fetch_it(server: InProcessServer, manager: HandManager) -> None:
    await report(manager, ["ink", "oil"], ink=sha(RED))
    await put(manager, RED)
    async with wuliart_client.AsyncClient(server.target) as client:
        adapters = {a.name: a.thumbnail_hash for a in await client.adapters()}
        assert adapters == {"ink": sha(RED), "oil": ""}
        assert await client.thumbnail("ink") == RED
        assert await client.thumbnail("oil") is None
        with pytest.raises(wuliart_client.AdapterNotFound, match="did you mean 'ink'"):
            await client.thumbnail("inc")


async def test_notes_are_listed_bounded(server: InProcessServer, manager: HandManager) -> None:
    notes = ["ignored text encoder weights", "bad\x1b[0m" + "x" * 1000, *"abcdefghij"]
    await manager.report(entry_of("ink", notes=notes))
    async with wuliart_client.AsyncClient(server.target) as client:
        (ink,) = await client.adapters()
    assert len(ink.notes) == 8 and ink.notes[0] == notes[0]
    assert len(ink.notes[1]) == 300 and "\x1b" not in ink.notes[1]
