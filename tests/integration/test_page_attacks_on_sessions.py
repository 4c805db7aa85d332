"""Attacks on the page's sessions: too many sessions or calls, and the sessions of other visitors.

Without limits, 2,000 sessions stopped Gradio's queue for good, and one that read nothing took a
gigabyte.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from gradio import queueing
from gradio.utils import LRUCache

from tests.support.harness import InProcessServer, running_server
from tests.support.page_calls import PageCalls, inputs
from tests.support.web_app import name_model, page_client
from wuliart_process.tokens import TokenFile
from wuliart_web.guard import sessions
from wuliart_web.guard.sessions import MAX_SESSION_CALLS

ANN, BOB = "ann-" + "a" * 28, "bob-" + "b" * 28


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def http(server: InProcessServer) -> AsyncIterator[httpx.AsyncClient]:
    async with page_client(server.target) as client:
        yield client


async def test_any_number_of_sessions_leaves_the_page_working(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Gradio's queue ends when its cache of 2,000 sessions is full; a smaller one is full sooner.
    monkeypatch.setattr(queueing, "LRUCache", lambda _: LRUCache(60))
    monkeypatch.setattr(sessions, "MAX_SESSIONS", 20)

    async with page_client(server.target) as http:
        first = PageCalls(http)
        index = await first.index("random_seed")

        async def join(name: str) -> int:
            body = {"data": [], "event_data": None, "fn_index": index, "trigger_id": None}
            body["session_hash"] = name
            return (await http.post("/gradio_api/queue/join", json=body)).status_code

        codes = await asyncio.gather(*(join(f"s{n}") for n in range(200)))
        assert set(codes) == {200}
        assert (await http.get("/healthz")).status_code == 200
        assert "Done" in (await first.call("generate", inputs()))[-1][0]


async def test_calls_of_one_session_and_of_all_sessions_are_limited(
    http: httpx.AsyncClient, server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.engine.hold()
    calls = PageCalls(http)
    codes = [
        (await calls.join("generate", inputs())).status_code for _ in range(MAX_SESSION_CALLS + 5)
    ]
    assert codes.count(429) >= 1 and set(codes) <= {200, 429}
    # Another visitor's page goes on meanwhile, whatever waits for an image.
    assert await PageCalls(http).call("refresh", [None])
    monkeypatch.setattr(sessions, "MAX_CALLS", 1)
    answer = await PageCalls(http).join("generate", inputs())
    assert answer.status_code == 429 and "retry-after" in answer.headers
    server.engine.free()


async def test_a_session_is_read_by_its_owner_alone_and_once(
    server: InProcessServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "HANDOVER_SECONDS", 0.2)
    tokens = tmp_path / "tokens"
    tokens.write_text(f"ann {ANN}\nbob {BOB}\n")
    tokens.chmod(0o600)
    async with page_client(server.target, TokenFile(tokens)) as http:
        http.headers["authorization"] = f"Bearer {ANN}"
        calls = PageCalls(http)
        server.engine.hold()
        event = (await calls.join("generate", inputs())).json()["event_id"]
        bob = {"authorization": f"Bearer {BOB}"}
        stream, session = "/gradio_api/queue/data", {"session_hash": calls.session}
        assert (await http.get(stream, params=session, headers=bob)).status_code == 404
        beat = f"/gradio_api/heartbeat/{calls.session}"
        assert (await http.get(beat, headers=bob)).status_code == 404
        cancel = {"event_id": event, "fn_index": await calls.index("generate")} | session
        answer = await http.post("/gradio_api/cancel", json=cancel, headers=bob)
        assert answer.status_code == 404
        join = {"data": [None], "event_data": {"number": 0}, "trigger_id": None} | session
        join["fn_index"] = await calls.index("restore")
        answer = await http.post("/gradio_api/queue/join", json=join, headers=bob)
        assert answer.status_code == 404
        async with http.stream("GET", stream, params=session) as open_stream:
            assert open_stream.status_code == 200
            assert (await http.get(stream, params=session)).status_code == 409
        server.engine.free()


async def test_the_next_stream_waits_for_the_previous_one_to_end(
    http: httpx.AsyncClient, server: InProcessServer
) -> None:
    # Gradio's client opens it once the last one has said that it closes, before it has closed.
    server.engine.hold()
    calls = PageCalls(http)
    await calls.join("generate", inputs())
    path, session = "/gradio_api/queue/data", {"session_hash": calls.session}
    async with http.stream("GET", path, params=session) as last:
        assert last.status_code == 200
        following = asyncio.create_task(http.get(path, params=session))
        await asyncio.sleep(0.2)
        assert not following.done()
    server.engine.free()
    assert (await following).status_code == 200


async def test_queries_are_dropped_except_a_streams_session(http: httpx.AsyncClient) -> None:
    plain = (await http.get("/")).text
    for query in ("deep_link=x", "page=foo", "__theme=dark", "x" * 5000):
        assert len((await http.get(f"/?{query}")).text) == pytest.approx(len(plain), abs=50)
    for query in ("", "session_hash=", "session_hash=a&session_hash=b", "session_hash=../x", "x=1"):
        assert (await http.get(f"/gradio_api/queue/data?{query}")).status_code == 422
