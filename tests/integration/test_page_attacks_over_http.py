"""Attacks on the page as a web server: foreign hosts and sites, large and slow bodies, odd headers.

The guard (`wuliart_web.guard`) rejects them; see `test_page_connections` for connections.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import pytest

from tests.support.fakes import until
from tests.support.harness import InProcessServer, running_server
from tests.support.web_app import name_model, page_client
from wuliart_contract.limits import MAX_REQUEST_BYTES
from wuliart_process.tokens import TokenFile
from wuliart_web.guard import bodies
from wuliart_web.guard.response_headers import page_policy
from wuliart_web.image_store import ImageStore

ANN, BOB = "ann-" + "a" * 28, "bob-" + "b" * 28
JSON = {"content-type": "application/json"}


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def http(server: InProcessServer) -> AsyncIterator[httpx.AsyncClient]:
    async with page_client(server.target) as client:
        yield client


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens"
    path.write_text(f"ann {ANN}\nbob {BOB}\n")
    path.chmod(0o600)
    return path


@pytest.fixture
async def guarded(server: InProcessServer, tokens: Path) -> AsyncIterator[httpx.AsyncClient]:
    async with page_client(server.target, TokenFile(tokens)) as client:
        yield client


EVERYWHERE = [
    "/", "/theme.css", "/adapters/news", "/v1/models", "/viewer.js", "/healthz", "/config",
    "/gradio_api/queue/data?session_hash=abc", "/images/x/20260101_000000.jpg",
]  # fmt: skip


# -- foreign names and sites -------------------------------------------------------------------


async def test_a_foreign_host_name_is_rejected(http: httpx.AsyncClient) -> None:
    """DNS rebinding: the attacker's page reaches this port under the attacker's own name."""
    port = http.base_url.port
    for name in (
        "evil.example", f"evil.example:{port}", "localhost.evil.example", "127.0.0.1.evil.example",
        "", "evil.example@127.0.0.1", "[::1", "127.0.0.1 evil.example",
    ):  # fmt: skip
        for path in EVERYWHERE:
            for origin in ({}, {"origin": f"http://{name}"}):
                answer = await http.get(path, headers={"host": name} | origin)
                assert answer.status_code == 421, (name, path)
                assert "--allowed-host" in answer.text
                assert not [name for name in answer.headers if "access-control" in name]
    for name in ("localhost", f"localhost:{port}", "LOCALHOST", "127.0.0.1", "[::1]:7860"):
        assert (await http.get("/viewer.js", headers={"host": name})).status_code == 200, name


async def test_an_allowed_host_name_is_answered(server: InProcessServer) -> None:
    async with page_client(server.target, allowed_hosts=["box.example"]) as http:
        for name, status in (("Box.Example:80", 200), ("other.example", 421)):
            assert (await http.get("/viewer.js", headers={"host": name})).status_code == status


async def test_other_sites_can_neither_read_nor_cause_anything(http: httpx.AsyncClient) -> None:
    for origin in (
        "http://localhost:8000",
        "http://evil.example",
        "null",
        "http://[",
        "http://",
        "",
        "x",
    ):
        for method, path in (("OPTIONS", "/"), ("OPTIONS", "/gradio_api/queue/join"), ("GET", "/")):
            headers = {"origin": origin, "access-control-request-method": "POST"}
            answer = await http.request(method, path, headers=headers)
            assert answer.status_code < 500
            assert not [name for name in answer.headers if "access-control" in name], origin
        for path in ("/gradio_api/queue/join", "/v1/images/generations", "/gradio_api/cancel"):
            answer = await http.post(path, headers={"origin": origin} | JSON, content=b"{}")
            assert answer.status_code == 403, (origin, path)
    # Browsers set this header, and no page can forge it.
    for site in ("cross-site", "same-site"):
        foreign = {"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}
        assert (await http.get("/adapters/news", headers=foreign)).status_code == 403
        link = {"sec-fetch-site": site, "sec-fetch-mode": "navigate"}
        assert (await http.get("/", headers=link)).status_code == 200
        assert (await http.post("/v1/images/generations", headers=link)).status_code == 403


async def test_every_response_has_the_security_headers(
    http: httpx.AsyncClient, guarded: httpx.AsyncClient
) -> None:
    answers = [await http.get(path) for path in EVERYWHERE if "adapters" not in path]
    answers += [
        await http.get("/", headers={"host": "evil.example"}),
        await http.post("/v1/images/generations", json={"prompt": "a fox"}),
        await http.post("/v1/images/generations", content=b"x" * (MAX_REQUEST_BYTES + 1)),
        await http.post("/gradio_api/queue/join", content=b"{"),
        await guarded.get("/"),
        await guarded.get("/", headers={"accept": "text/html"}),
        await guarded.post("/login", data={"token": ANN}),
    ]
    async with http.stream("GET", "/adapters/news") as news:
        answers.append(news)
    for answer in answers:
        given = answer.headers
        assert given["x-content-type-options"] == "nosniff"
        assert given["x-frame-options"] == "DENY"
        assert given["referrer-policy"] == "no-referrer"
        policy = given["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy
        assert "server" not in given
    page = (await http.get("/")).headers["content-security-policy"]
    assert "script-src 'self' 'unsafe-eval' 'sha256-" in page
    assert "'unsafe-inline'" not in page.split("style-src")[0] and "http" not in page


def test_the_pages_policy_allows_its_inline_scripts_only() -> None:
    # From the example of the specification (CSP Level 3, 8.2): "alert('Hello, world.');"
    hello = "'sha256-qznLcsROx4GACP2dm0UCKCzCG+HiZ1guq6ZZDob/Tng='"
    inline, file = b"<script>alert('Hello, world.');</script>", b'<script src="/x.js"></script>'
    assert hello in page_policy(inline) and "sha256" not in page_policy(file)


# -- bodies ------------------------------------------------------------------------------------


def peak_memory() -> int:
    """Returns the memory of this process, in which the page runs, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.mark.parametrize("declared", [True, False], ids=["declared", "chunked"])
async def test_a_large_body_is_not_kept(http: httpx.AsyncClient, declared: bool) -> None:
    size, piece = 200 << 20, b"x" * (1 << 20)

    async def content() -> AsyncIterator[bytes]:
        for _ in range(size // len(piece)):
            yield piece

    await http.get("/viewer.js")
    before = peak_memory()
    for path in ("/gradio_api/queue/join", "/v1/images/generations", "/gradio_api/upload"):
        headers = JSON | ({"content-length": str(size)} if declared else {})
        # A client that keeps sending may see the connection closed instead of the response.
        with suppress(httpx.ReadError, httpx.WriteError):
            answer = await http.post(path, content=content(), headers=headers)
            assert answer.status_code in (404, 411, 413)
    assert peak_memory() - before < 50 << 20
    async with httpx.AsyncClient(base_url=http.base_url) as another:
        assert (await another.get("/viewer.js")).status_code == 200


async def test_a_body_that_does_not_arrive_times_out(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    head = "POST /gradio_api/queue/join HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n"
    writer.write(head.encode() + b"{")
    async with asyncio.timeout(20):
        answer = await reader.read()
    assert b" 408 " in answer and b"was not complete" in answer
    writer.close()


async def test_an_unknown_session_gets_an_error_and_logs_nothing(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    for _ in range(5):
        answer = await http.get("/gradio_api/queue/data?session_hash=nosuch")
        assert "session_not_found" in answer.text
    assert "Traceback" not in caplog.text + "".join(capfd.readouterr())


async def test_invalid_lengths_are_rejected(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "DISCARD_SECONDS", 0.1)
    for length in ("-1", "1e3", "9" * 40, "0x10", "\u00b2"):
        reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
        head = "POST /v1/images/generations HTTP/1.1\r\nHost: localhost\r\n"
        writer.write(f"{head}Content-Length: {length}\r\n\r\n".encode("latin-1"))
        async with asyncio.timeout(20):
            answer = await reader.read()
        assert answer.split()[1] in (b"400", b"413"), length
        writer.close()


# -- tokens ------------------------------------------------------------------------------------


async def test_cookies_of_other_applications_neither_hide_ours_nor_break_anything(
    guarded: httpx.AsyncClient,
) -> None:
    ours = f"wuliart_token={ANN}"
    for other in (
        'a[b]="x', "x@y=1", "=;;", "wuliart_token=stale", 'j={"a":1,"b":[2]}', "Path=/",
        "expires=x", "\u00e9=\u00fc", "a" * 4000, "wuliart_token", 'q="a;b"',
    ):  # fmt: skip
        for cookie in (f"{other}; {ours}", f"{ours}; {other}", f"{other};{ours}"):
            answer = await guarded.get("/viewer.js", headers={"cookie": cookie.encode("latin-1")})
            assert answer.status_code == 200, cookie
        answer = await guarded.get("/viewer.js", headers={"cookie": other.encode("latin-1")})
        assert answer.status_code == 401, other


async def test_a_revoked_token_ends_open_streams_too(
    server: InProcessServer, guarded: httpx.AsyncClient, tokens: Path
) -> None:
    ann, bob = ({"authorization": f"Bearer {token}"} for token in (ANN, BOB))
    server.engine.hold()
    generating = asyncio.create_task(
        guarded.post("/v1/images/generations", json={"prompt": "a fox"}, headers=ann)
    )
    await server.accepted(1)
    ended: list[str] = []

    async def follow(name: str, headers: dict[str, str], path: str) -> None:
        async with guarded.stream("GET", path, headers=headers) as stream:
            assert stream.status_code == 200
            async for _ in stream.aiter_raw():
                pass
        ended.append(name)

    open_streams = [
        asyncio.create_task(follow("ann", ann, "/adapters/news")),
        asyncio.create_task(follow("ann", ann, "/gradio_api/heartbeat/abc")),
        asyncio.create_task(follow("bob", bob, "/adapters/news")),
    ]
    await asyncio.sleep(0.5)
    assert not ended
    await asyncio.to_thread(tokens.write_text, f"bob {BOB}\n")
    await until(lambda: ended == ["ann", "ann"])
    assert (await generating).status_code == 401
    assert (await guarded.get("/viewer.js", headers=ann)).status_code == 401
    assert (await guarded.get("/viewer.js", headers=bob)).status_code == 200
    for task in open_streams:
        task.cancel()
    server.engine.free()


# -- names of images -------------------------------------------------------------------------


def test_a_clock_that_was_ahead_does_not_affect_later_names() -> None:
    now = datetime(2026, 5, 21, 14, 23, 5)
    images = ImageStore(lambda: now)

    def name() -> str:
        return images.add(b"x").rsplit("/", 1)[1]

    assert [name(), name()] == ["20260521_142305.jpg", "20260521_142306.jpg"]
    now += timedelta(days=400)
    assert name() == "20270625_142305.jpg"
    now -= timedelta(days=400)
    assert name() == "20260521_142307.jpg"
