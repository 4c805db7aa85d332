"""Attacks on what Gradio would do with a request: files handed out, addresses fetched, open routes.

Each was possible before the guard's allow-lists (`guard.routes`, `guard.gradio_calls`).
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.routing import BaseRoute, Mount

from tests.support.harness import InProcessServer, running_server
from tests.support.page_calls import PageCalls, inputs
from tests.support.web_app import name_model, page_client
from wuliart_client import AsyncClient
from wuliart_web.app import create_app
from wuliart_web.clients import per_request
from wuliart_web.guard.error import GuardError
from wuliart_web.guard.gradio_calls import CANCEL, JOIN, RESET, GradioCalls
from wuliart_web.guard.routes import is_allowed
from wuliart_web.image_store import ImageStore
from wuliart_web.page import layout
from wuliart_web.service_watch import ServiceWatch

ROUTES = Path(__file__).with_name("gradio_routes.txt")
SECRET = "not to be read"


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=2) as running:
        name_model(running, "qwen-image")
        yield running


@pytest.fixture
async def http(server: InProcessServer) -> AsyncIterator[httpx.AsyncClient]:
    async with page_client(server.target) as client:
        yield client


def file_data(**fields: Any) -> dict[str, Any]:
    return {"meta": {"_type": "gradio.FileData"}} | fields


def gradio_files() -> set[Path]:
    """Returns all files that Gradio has copied or stored."""
    folder = Path(os.environ.get("GRADIO_TEMP_DIR", Path(tempfile.gettempdir()) / "gradio"))
    return set(folder.rglob("*"))


@pytest.mark.parametrize("place", range(len(inputs())))
async def test_no_control_reads_a_file_of_the_server(
    http: httpx.AsyncClient, tmp_path: Path, place: int
) -> None:
    secret = tmp_path / "secret.txt"
    secret.write_text(SECRET)
    secret.chmod(0o600)
    before, calls = gradio_files(), PageCalls(http)
    for value in (
        file_data(path=str(secret)),
        {"path": str(secret)},
        [file_data(path=str(secret))],
        {"a": {"b": [file_data(path=str(secret))]}},
        file_data(path="", url=f"file://{secret}"),
    ):
        data = inputs()
        data[place] = value
        answer = await calls.join("generate", data)
        assert answer.status_code == 422, answer.text
        assert str(secret) not in answer.text
        answer = await calls.join("refresh", [None], event_data=value)
        assert answer.status_code == 422
    assert gradio_files() == before
    for path in (f"/gradio_api/file={secret}", f"/gradio_api/file/{secret}", f"/file={secret}"):
        answer = await http.get(path)
        assert answer.status_code == 404 and SECRET not in answer.text


async def test_no_address_is_fetched_for_a_visitor(http: httpx.AsyncClient) -> None:
    calls = PageCalls(http)
    for url in ("http://example.invalid/x.png", "http://127.0.0.1:1/", "data:text/plain,x"):
        data = inputs(prompt=file_data(path=url, url=url))
        assert (await calls.join("generate", data)).status_code == 422
    assert (await http.get("/gradio_api/proxy=http://127.0.0.1:1/")).status_code == 404


async def test_uploads_are_neither_accepted_nor_kept(http: httpx.AsyncClient) -> None:
    before = gradio_files()
    answer = await http.post("/gradio_api/upload", files={"files": ("x.bin", b"x" * 1000)})
    assert answer.status_code == 404
    assert gradio_files() == before


def routes_of(routes: list[BaseRoute], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Returns (method, path) of every route, including mounted and included routers."""
    for route in routes:
        if isinstance(route, Mount):
            yield from routes_of(route.routes, prefix + route.path)
        elif hasattr(route, "original_router"):
            inner = prefix + route.include_context.prefix
            yield from routes_of(route.original_router.routes, inner)
        else:
            for method in sorted(getattr(route, "methods", None) or {"?"}):
                yield method, prefix + getattr(route, "path", "?")


async def test_every_route_is_listed_as_open_or_closed(http: httpx.AsyncClient) -> None:
    """A route that a new version of Gradio adds is closed, and makes this test fail.

    Then decide and write it into gradio_routes.txt: "open" is what the page needs.
    """
    app: Any = create_app(AsyncClient("unix:/nowhere")).app
    found = sorted(set(routes_of(app.routes)))
    known = dict[tuple[str, str], str]()
    for line in ROUTES.read_text().splitlines():
        state, method, path = line.split(maxsplit=2)
        known[method, path] = state
    assert set(known) == set(found), "write what is new into gradio_routes.txt, after a look at it"
    for method, path in found:
        filled = path.replace("{session_hash}", "abc").replace("{name:path}", "x")
        filled = filled.replace("{path:path}", "x").replace("{token}", "t").replace("{name}", "n")
        filled = filled.replace("{thumbnail_hash}", "ab" * 32)
        assert is_allowed(method, filled) == (known[method, path] == "open"), (method, path)
        if known[method, path] == "closed":
            answer = await http.request(method, filled.replace("{", "x").replace("}", "x"))
            assert answer.status_code == 404, (method, path)
            assert method == "HEAD" or "There is nothing at this address" in answer.text


async def test_unusual_spellings_of_a_path_reach_nothing(http: httpx.AsyncClient) -> None:
    for path in (
        "//gradio_api/upload", "/gradio_api/../gradio_api/upload", "/assets/../config",
        "/assets/..%2f..%2fetc/passwd", "/static/%2e%2e/%2e%2e/etc/passwd", "/static/./x",
        "/gradio_api/file%3d/etc/passwd", "/gradio_api/queue/join/", "/CONFIG", "/config%00",
        "/images/x/../../config", "/assets/.hidden", "/gradio_api/heartbeat/../../config",
        "/docs", "/redoc", "/openapi.json", "/gradio_api/openapi.json", "/monitoring",
    ):  # fmt: skip
        request = http.build_request("GET", "/")
        request.url = request.url.copy_with(raw_path=path.encode())
        answer = await http.send(request)
        assert answer.status_code == 404, path


# -- malformed calls ---------------------------------------------------------------------------

PROMPT = "what-a-visitor-asked-for"


async def test_malformed_calls_are_rejected_and_log_no_prompt(
    http: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = PageCalls(http)
    draw, restore = await calls.index("generate"), await calls.index("restore")
    caplog.set_level(logging.DEBUG)
    good = {"data": inputs(prompt=PROMPT), "event_data": None, "fn_index": draw}
    good |= {"trigger_id": 9, "session_hash": calls.session}
    bad: list[Any] = [
        [], None, 1, "x", {}, {"data": []}, good | {"fn_index": 999}, good | {"fn_index": "1"},
        good | {"fn_index": True}, good | {"data": [PROMPT]}, good | {"data": {"0": PROMPT}},
        good | {"data": inputs(prompt=None)}, good | {"data": inputs(prompt=[PROMPT])},
        good | {"data": inputs(prompt=PROMPT + "\ud800")}, good | {"data": inputs(weight=PROMPT)},
        good | {"data": inputs(weight=float("nan"))}, good | {"data": inputs(weight=1e308)},
        good | {"data": inputs(seed=10**400)}, good | {"data": inputs(seed=-1)},
        good | {"data": inputs(steps=9)}, good | {"data": inputs(steps=PROMPT)},
        good | {"data": inputs(steps=True)}, good | {"data": inputs(keep=1)},
        good | {"data": inputs(visit=[PROMPT])}, good | {"session_hash": "../x"},
        good | {"session_hash": None}, good | {"trigger_id": PROMPT}, good | {PROMPT: 1},
        good | {"simple_format": True}, good | {"batched": True}, good | {"oauth_token": "x"},
        good | {"event_data": {"number": PROMPT}}, good | {"event_data": [PROMPT]},
        good | {"fn_index": restore, "data": [PROMPT]},
    ]  # fmt: skip
    for body in bad:
        content = json.dumps(body)
        answer = await http.post(
            JOIN, content=content, headers={"content-type": "application/json"}
        )
        assert answer.status_code == 422, content
        assert PROMPT not in answer.text
    for content in (b"", b"{", b"\xff", b"[" * 60_000, b'{"a":' * 10_000, b"9" * 60_000):
        for path in (JOIN, CANCEL, RESET):
            assert (await http.post(path, content=content)).status_code == 422, content[:9]
    assert (await http.post(CANCEL, json={"event_id": PROMPT})).status_code == 422
    # An image that has left the strip, and one that was never in it.
    for number in (0, -1, 10**30):
        await calls.call("restore", [None], event_data={"number": number})
    assert "Done" in (await calls.call("generate", inputs(prompt=PROMPT)))[-1][0]
    said = caplog.text + "".join(capfd.readouterr())
    assert PROMPT not in said and "Traceback" not in said


PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
NESTED = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner)
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(
    data=st.lists(PLAIN | NESTED, min_size=9, max_size=9),
    event_data=NESTED,
    path=st.sampled_from([JOIN, CANCEL, RESET]),
    noise=st.binary(max_size=50),
)
def test_no_nested_value_passes_and_nothing_else_than_a_guard_error_is_raised(
    calls: GradioCalls, data: list[Any], event_data: Any, path: str, noise: bytes
) -> None:
    body = {"data": data, "event_data": event_data, "fn_index": 1, "session_hash": "abc"}
    for content in (json.dumps(body).encode(), noise):
        try:
            calls.check(path, content)
        except GuardError as error:
            assert error.status == 422
        else:
            assert not any(isinstance(value, (list, dict)) for value in data)


@pytest.fixture(scope="module")
def calls() -> GradioCalls:
    client = AsyncClient("unix:/nowhere")
    return GradioCalls(
        layout.build(per_request(client, None), ImageStore(), ServiceWatch(client)), lambda: (4,)
    )


def test_gradio_itself_checks_paths_too() -> None:
    app: Any = create_app(AsyncClient("unix:/nowhere")).app
    (mount,) = [route for route in app.routes if isinstance(route, Mount)]
    assert mount.app.get_blocks().has_launched  # type: ignore[attr-defined]
