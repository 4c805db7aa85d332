"""The page serves thumbnails of listed adapters, and nothing else at their addresses."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.support.fake_image_server import Fail, FakeImageServer, Hold, adapter, snapshot
from tests.support.fakes import DEADLINE
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import running_server
from tests.support.preview_images import image
from tests.support.web_app import page_client
from wuliart.internal.v1 import segment_pb2
from wuliart_contract.status import Reason
from wuliart_process.tokens import TokenFile

RED, BLUE = image("JPEG", (200, 0, 0)), image("JPEG", (0, 0, 200))


def sha(jpeg: bytes) -> str:
    return hashlib.sha256(jpeg).hexdigest()


@pytest.fixture
def fake() -> Iterator[FakeImageServer]:
    with FakeImageServer() as server:
        server.thumbnails = {"ink": RED}
        server.watches.append([snapshot(1, adapter("ink", thumbnail_hash=sha(RED))), Hold()])
        yield server


@pytest.fixture
async def http(fake: FakeImageServer) -> AsyncIterator[httpx.AsyncClient]:
    async with page_client(fake.target) as client:
        yield client


async def served(http: httpx.AsyncClient, jpeg: bytes, status: int) -> httpx.Response:
    """Returns the response for this thumbnail once it has that status."""
    async with asyncio.timeout(DEADLINE):
        while (answer := await http.get(f"/thumbnails/{sha(jpeg)}")).status_code != status:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer


async def test_a_listed_thumbnail_is_served_and_kept(
    fake: FakeImageServer, http: httpx.AsyncClient
) -> None:
    answer = await served(http, RED, 200)
    assert answer.content == RED
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "private" in answer.headers["cache-control"]
    fake.thumbnails.clear()
    assert (await http.get(f"/thumbnails/{sha(RED)}")).content == RED
    await listed(http)
    assert (await http.head(f"/thumbnails/{sha(RED)}")).status_code == 200


async def listed(http: httpx.AsyncClient) -> None:
    """Waits until the page, as it is first served, shows the picture."""
    async with asyncio.timeout(DEADLINE):
        while f"/thumbnails/{sha(RED)}" not in (await http.get("/")).text:  # noqa: ASYNC110
            await asyncio.sleep(0.02)


@pytest.mark.parametrize(
    "path",
    [
        sha(BLUE), "ink", "../etc/passwd", "..%2f..%2fetc%2fpasswd", f"{sha(RED)}/../../x",
        sha(RED).upper(), f"{sha(RED)}.jpg", "", f"%2e%2e/{sha(RED)}", "%00" * 64,
    ],
)  # fmt: skip
async def test_other_addresses_are_none(http: httpx.AsyncClient, path: str) -> None:
    await served(http, RED, 200)
    assert (await http.get(f"/thumbnails/{path}")).status_code == 404
    assert (await http.post(f"/thumbnails/{sha(RED)}")).status_code == 404


async def test_bytes_of_another_hash_are_not_served(fake: FakeImageServer) -> None:
    fake.thumbnails = {"ink": BLUE}
    async with page_client(fake.target) as http:
        await listed(http)
        assert (await http.get(f"/thumbnails/{sha(RED)}")).status_code == 404


async def test_a_server_that_fails_is_an_error_for_now(fake: FakeImageServer) -> None:
    fake.unary_failures.extend([Fail(Reason.INTERNAL, "no")] * 100)
    async with page_client(fake.target) as http:
        await served(http, RED, 503)
        fake.unary_failures.clear()
        await served(http, RED, 200)


async def test_a_thumbnail_that_is_listed_no_more_is_served_no_more() -> None:
    async with (
        running_server() as server,
        HandManager(server) as manager,
        page_client(server.target) as http,
    ):
        session = manager.attached.session_id
        thumbnail = segment_pb2.FileThumbnail(name="ink", thumbnail_hash=sha(RED))
        report = segment_pb2.ReportCatalogRequest(
            session_id=session, entries=[entry_of("ink")], thumbnails=[thumbnail]
        )
        await manager.stub.ReportCatalog(report)
        await manager.stub.PutThumbnails(
            segment_pb2.PutThumbnailsRequest(session_id=session, jpegs=[RED])
        )
        assert (await served(http, RED, 200)).content == RED
        report.thumbnails.clear()
        report.thumbnails_complete = True
        await manager.stub.ReportCatalog(report)
        await served(http, RED, 404)


async def test_without_a_token_none_is_served(fake: FakeImageServer, tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("ann " + "s" * 32 + "\n")
    file.chmod(0o600)
    async with page_client(fake.target, TokenFile(file)) as http:
        assert (await http.get(f"/thumbnails/{sha(RED)}")).status_code == 401
        http.headers["Authorization"] = "Bearer " + "s" * 32
        assert (await served(http, RED, 200)).content == RED
