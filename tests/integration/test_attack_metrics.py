"""The metrics port under attack: half requests, slow ones, other Hosts, no descriptors left."""

from __future__ import annotations

import asyncio
import http.client
import resource
import socket
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager

import psutil
import pytest

from inference_server.service import http_server
from inference_server.service.exporter import start_exporter
from inference_server.service.http_server import MAX_CONNECTIONS
from tests.support.fakes import DEADLINE
from tests.support.http2_client import connected, message
from tests.support.ports import free_port
from tests.support.served_process import Served, served

GET = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n"


@pytest.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(http_server, "SECONDS", 1.0)
    port = free_port()
    stop = start_exporter(f"127.0.0.1:{port}", lambda: (), ["Metrics.Example"])
    yield port
    await asyncio.to_thread(stop)


def get(port: int, host: str = "localhost", path: str = "/metrics") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=DEADLINE)
    try:
        headers = {"Origin": f"http://{host}"} | ({"Host": host} if host else {})
        connection.putrequest("GET", path, skip_host=True)
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        response.read()
        return response
    finally:
        connection.close()


def serves(port: int) -> bool:
    try:
        return get(port).status == 200
    except (OSError, http.client.HTTPException):
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "did not come"
        time.sleep(0.05)


def threads() -> int:
    return sum("process_request_thread" in thread.name for thread in threading.enumerate())


async def test_half_requests_have_few_threads_and_a_short_life(port: int) -> None:
    await asyncio.to_thread(half_requests, port)


def half_requests(port: int) -> None:
    with ExitStack() as stack:
        for _ in range(100):
            half = stack.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE))
            half.sendall(GET)
            assert threads() <= MAX_CONNECTIONS
        # Those are still open, and yet:
        wait_for(lambda: serves(port))
        wait_for(lambda: threads() == 0)


async def test_a_request_that_drips_in_has_no_more_time_than_others(port: int) -> None:
    await asyncio.to_thread(drip, port)


def drip(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), DEADLINE) as slow:
        began = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() - began < DEADLINE:
                slow.sendall(b"X")
                time.sleep(0.1)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9464", "[::1]:1", "metrics.example:80"])
async def test_hosts_of_the_server_are_answered(port: int, host: str) -> None:
    response = await asyncio.to_thread(get, port, host)
    assert response.status == 200
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


@pytest.mark.parametrize(
    "host", ["evil.example", "localhost.evil.example:9464", "", "a, localhost"]
)
async def test_another_host_is_refused(port: int, host: str) -> None:
    response = await asyncio.to_thread(get, port, host)
    assert response.status == 421
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert not [name for name in response.headers if name.lower().startswith("access-control")]


async def test_only_metrics_are_served(port: int) -> None:
    for path in ("/", "/favicon.ico", "/metrics/", "/../etc/passwd"):
        assert (await asyncio.to_thread(get, port, "localhost", path)).status == 404


async def test_a_name_that_is_listened_on_is_one_of_the_servers() -> None:
    port = free_port()
    stop = start_exporter(f"localhost:{port}", lambda: ())
    await asyncio.to_thread(stop)


@contextmanager
def few_descriptors(process: psutil.Process, spare: int) -> Iterator[None]:
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds() + spare, before[1]))
    try:
        yield
    finally:
        process.rlimit(resource.RLIMIT_NOFILE, before)


def test_connections_without_descriptors_cost_neither_log_nor_processor() -> None:
    metrics = free_port()
    with served("--listen", "127.0.0.1:0", "--metrics", f"127.0.0.1:{metrics}") as server:
        with few_descriptors(server.process, 3), ExitStack() as stack:
            used = sum(server.process.cpu_times()[:2])
            for port in (server.port, metrics):
                for _ in range(60):
                    one = stack.enter_context(socket.socket())
                    one.setblocking(False)
                    one.connect_ex(("127.0.0.1", port))
            seconds = 2.5
            time.sleep(seconds)
            used = sum(server.process.cpu_times()[:2]) - used
        assert used < seconds / 2, "the server spins"
        assert "Traceback" not in server.said
        assert len(server.said.splitlines()) < 60
        wait_for(lambda: serves(metrics))
        grpc_answers(server)


def grpc_answers(server: Served) -> None:
    with connected(server.port) as connection:
        stream = connection.call("/grpc.health.v1.Health/Check")
        connection.data(stream, message(b""), end=True)
        wait_for(lambda: connection.read(0.1) and stream in connection.ended)
