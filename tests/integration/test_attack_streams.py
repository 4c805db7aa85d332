"""Clients that flood the port, stop in the middle, do not read, or send what no library sends.

The server runs in a process of its own, so that its memory and its log can be measured.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

from inference_server.network import Network
from inference_server.service import receiving
from inference_server.service.guard import MAX_PROBES
from inference_server.service.rpc_server import MAX_STREAMS, WINDOW_BYTES
from tests.support.calls import failure_of
from tests.support.fakes import DEADLINE
from tests.support.harness import InProcessServer, running_server
from tests.support.http2_client import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    RST_STREAM,
    Connection,
    connected,
    frame,
    header_block,
    message,
)
from tests.support.served_process import Served, served
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart_contract.limits import MAX_REQUEST_BYTES
from wuliart_process.log_repeats import ALLOWED

GENERATE = "/wuliart.v1.ImageGenerationService/GenerateImage"
WATCH = "/wuliart.v1.AdapterService/WatchAdapters"
CHECK, HEALTH_WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
TOKEN = "t" * 32


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokens") / "tokens"
    path.write_text(f"ann {TOKEN}\n")
    path.chmod(0o600)
    return path


@pytest.fixture(scope="module")
def closed(tokens: Path) -> Iterator[Served]:
    """A server that requires tokens."""
    with served("--listen", "127.0.0.1:0", "--tokens", str(tokens)) as server:
        yield server


@pytest.fixture(scope="module")
def open_to_all() -> Iterator[Served]:
    with served("--listen", "127.0.0.1:0") as server:
        yield server


def wait_for(condition: Callable[[], bool], connection: Connection) -> None:
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "did not come"
        connection.read(0.1)


def fill(connection: Connection, path: str, count: int, seconds: float) -> list[int]:
    """Begins calls whose requests lack their last byte, and sends all that is taken of them."""
    streams = [connection.call(path) for _ in range(count)]
    left = {
        stream: message(b"x" * (MAX_REQUEST_BYTES - 1), MAX_REQUEST_BYTES) for stream in streams
    }
    end = time.monotonic() + seconds
    while time.monotonic() < end and any(left[s] for s in streams if s not in connection.ended):
        moved = 0
        for stream in set(streams) - connection.ended:
            sent = connection.data(stream, left[stream])
            left[stream] = left[stream][sent:]
            moved += sent
        while connection.read(0.001 if moved else 0.1):
            pass
    return streams


def answered(port: int) -> None:
    """The server still answers a probe."""
    with connected(port) as connection:
        stream = connection.call(CHECK)
        connection.data(stream, message(b""), end=True)
        wait_for(lambda: stream in connection.ended, connection)
        assert connection.received[stream], "ended without an answer"


def test_a_connection_is_given_few_streams_and_small_windows(closed: Served) -> None:
    with connected(closed.port) as connection:
        assert connection.settings[MAX_CONCURRENT_STREAMS] == MAX_STREAMS
        assert connection.settings[INITIAL_WINDOW_SIZE] == WINDOW_BYTES


def test_unfinished_requests_without_a_token_are_not_read(closed: Served) -> None:
    before = closed.memory
    with connected(closed.port) as connection:
        streams = fill(connection, GENERATE, MAX_STREAMS, 5)
        wait_for(lambda: connection.ended >= set(streams), connection)
        assert closed.memory - before < 32e6, "600 of them took 440 MB"
    assert "Traceback" not in closed.said


def test_unfinished_probes_are_few_on_each_connection(closed: Served) -> None:
    before = closed.memory
    with connected(closed.port) as connection:
        streams = fill(connection, CHECK, MAX_STREAMS, 3)
        open_ones = set(streams) - connection.ended
        assert len(open_ones) == MAX_PROBES
        assert closed.memory - before < 32e6
        # Probes of other connections are answered meanwhile.
        answered(closed.port)


def test_unfinished_requests_are_bounded_where_no_token_is_required(open_to_all: Served) -> None:
    before = open_to_all.memory
    with connected(open_to_all.port) as connection:
        fill(connection, GENERATE, MAX_STREAMS, 8)
        assert connection.windows[0] < 1 << 20, "the window of the connection has grown"
        assert open_to_all.memory - before < 2 * MAX_STREAMS * MAX_REQUEST_BYTES
        answered(open_to_all.port)


async def test_a_request_that_does_not_arrive_ends_its_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(receiving, "SECONDS", 0.3)
    async with running_server() as server:
        channel = server.channel()
        # A client-streaming call sends its request only when the test writes it.
        for path, name in ((GENERATE, "INVALID_REQUEST"), (WATCH, "INVALID_REQUEST")):
            call = channel.stream_stream(path)(timeout=DEADLINE)
            failure = await failure_of(call)
            assert failure.reason == name and "had not arrived" in failure.message
        call = channel.stream_stream(GENERATE)(timeout=DEADLINE)
        await call.done_writing()
        failure = await failure_of(call)
        assert "without a request" in failure.message
        assert not server.stages


async def test_many_calls_on_one_connection_are_all_accepted(
    open_to_all: Served,
) -> None:
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0)]
    target = f"127.0.0.1:{open_to_all.port}"
    async with aio.insecure_channel(target, options=options) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check

        async def often() -> None:
            for _ in range(3):
                await check(health_pb2.HealthCheckRequest(), timeout=DEADLINE)

        await asyncio.gather(*(often() for _ in range(2 * MAX_STREAMS)))


def test_calls_that_are_reset_at_once_take_no_memory(closed: Served) -> None:
    before = closed.memory
    with connected(closed.port) as connection:
        end = time.monotonic() + 3
        while time.monotonic() < end and not connection.gone:
            for _ in range(50):
                stream = connection.call(GENERATE)
                connection.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
            connection.read(0.001)
        assert closed.memory - before < 64e6
    answered(closed.port)


@pytest.mark.parametrize("path", [b"/\xff\xfe", b"/wuliart.v1.\xc3", b"", b"/" + b"x" * 4000])
def test_a_method_name_that_is_not_text_does_not_stop_the_server(
    closed: Served, path: bytes
) -> None:
    with connected(closed.port) as connection:
        fields = {":method": "POST", ":scheme": "http", ":authority": "localhost"}
        rest = {"content-type": "application/grpc", "te": "trailers"}
        size = bytes([len(path)]) if len(path) < 127 else b"\x7f" + varint(len(path) - 127)
        block = header_block(fields) + b"\0\x05:path" + size + path + header_block(rest)
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        wait_for(lambda: 1 in connection.ended or connection.gone, connection)
    answered(closed.port)
    assert "Traceback" not in closed.said


def varint(number: int) -> bytes:
    digits = b""
    while number >= 128:
        digits, number = digits + bytes([number % 128 + 128]), number // 128
    return digits + bytes([number])


def test_headers_that_are_not_text_are_a_few_lines(closed: Served) -> None:
    with connected(closed.port) as connection:
        for _ in range(50):
            stream = connection.call(GENERATE, {"x-odd": "\u00ff\u00fe"})
            wait_for(lambda stream=stream: stream in connection.ended, connection)  # type: ignore[misc]
            raw = b"\0\x05x-bad\x03a\xff\xfe"
            fields = {":method": "POST", ":scheme": "http", ":path": GENERATE, ":authority": "l"}
            rest = {"content-type": "application/grpc", "te": "trailers"}
            stream, connection._next = connection._next, connection._next + 2
            block = header_block(fields) + header_block(rest) + raw
            connection.send(frame(HEADERS, END_HEADERS | END_STREAM, stream, block))
            wait_for(lambda stream=stream: stream in connection.ended, connection)  # type: ignore[misc]
    answered(closed.port)
    assert "Traceback" not in closed.said
    assert closed.said.count("Invalid encoding") <= ALLOWED


@pytest.mark.parametrize("how", ["resets", "closes", "has a deadline"])
@pytest.mark.parametrize("path", [GENERATE, WATCH, CHECK, HEALTH_WATCH])
def test_a_client_that_does_not_read_costs_no_traceback(
    open_to_all: Served, path: str, how: str
) -> None:
    body = GenerateImageRequest(prompt="x").SerializeToString() if path == GENERATE else b""
    with connected(open_to_all.port, {INITIAL_WINDOW_SIZE: 0}) as connection:
        timed = {"grpc-timeout": "300m"} if how == "has a deadline" else {}
        stream = connection.call(path, timed)
        connection.data(stream, message(body), end=True)
        time.sleep(0.2)  # until the server writes; sooner would be a weaker attack, not a failure
        if how == "resets":
            connection.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
        elif how == "has a deadline":
            time.sleep(0.3)
    answered(open_to_all.port)
    assert "Traceback" not in open_to_all.said and "ERROR" not in open_to_all.said


async def test_a_probe_that_does_not_read_does_not_keep_the_server_from_becoming_ready() -> None:
    async with running_server(network=Network("127.0.0.1:0"), ready=False) as server:
        await _watch_without_reading(server)


async def _watch_without_reading(server: InProcessServer) -> None:
    def watch() -> Connection:
        connection = Connection.open(server.public.port, {INITIAL_WINDOW_SIZE: 0})
        stream = connection.call(HEALTH_WATCH)
        connection.data(stream, message(b""), end=True)
        wait_for(lambda: stream in connection.begun, connection)
        return connection

    connection = await asyncio.to_thread(watch)
    try:
        stub = health_pb2_grpc.HealthStub(server.channel(f"127.0.0.1:{server.public.port}"))
        watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=DEADLINE)
        status = health_pb2.HealthCheckResponse
        assert (await watching.read()).status == status.NOT_SERVING
        await asyncio.wait_for(server.become_ready(), DEADLINE)
        assert (await watching.read()).status == status.SERVING
        await asyncio.wait_for(server.drain(0), DEADLINE)
        assert (await watching.read()).status == status.NOT_SERVING
        assert isinstance(watching, aio.UnaryStreamCall)
    finally:
        connection.socket.close()
