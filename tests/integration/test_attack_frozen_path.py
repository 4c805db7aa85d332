"""Servers that stop answering, or never do, without closing the connection: calls end by name."""

from __future__ import annotations

import asyncio
import inspect
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from inference_server.service import rpc_server
from wuliart_client import AdapterEventKind, AsyncClient, Client, Unavailable, _channel, _client

PATIENCE = 30.0
TENTHS = (
    "grpc.keepalive_time_ms",
    "grpc.keepalive_timeout_ms",
    "grpc.http2.ping_timeout_ms",
    "grpc.min_reconnect_backoff_ms",
)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client's times are a tenth of what they are."""
    options = tuple(
        (name, int(value) // 10 if name in TENTHS else value)
        for name, value in _channel.CHANNEL_OPTIONS
    )
    monkeypatch.setattr(_client, "channel_options", lambda target: options)


class FreezingServer:
    """A server that can be stopped in the middle of what it does, as with Ctrl-Z."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.logging_server"],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.target = self.process.stdout.readline().strip()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def started() -> Iterator[FreezingServer]:
    server = FreezingServer()
    yield server
    server.process.kill()
    server.process.wait()


@pytest.fixture
def server(started: FreezingServer) -> Iterator[FreezingServer]:
    yield started
    started.thaw()


@contextmanager
def mute() -> Iterator[str]:
    """Accepts connections and never responds."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield f"127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def unreachable() -> Iterator[str]:
    """Drops each SYN, as a firewall does: its backlog is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(3):
            connection = stack.enter_context(socket.socket())
            connection.setblocking(False)
            connection.connect_ex(listener.getsockname())
        time.sleep(0.1)
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def error_message(call: Callable[[], object]) -> str:
    """The message of a call that has to end soon with `Unavailable`."""
    messages: list[object] = []

    def run() -> None:
        try:
            messages.append(call())
        except Exception as error:
            messages.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(PATIENCE)
    assert messages, "the call hangs"
    assert type(messages[0]) is Unavailable, messages
    message = messages[0].message
    assert "\n" not in message and "SETTINGS" not in message and "Stream removed" not in message
    return message


def test_a_server_that_freezes_ends_a_stream_and_is_found_again(server: FreezingServer) -> None:
    with Client(server.target) as client, client.watch() as events:
        assert next(events).kind is AdapterEventKind.SNAPSHOT
        server.freeze()
        message = error_message(lambda: next(events))
        assert message.startswith(f"the server at {server.target} stopped answering: ")
        server.thaw()
        assert client.adapters(timeout=PATIENCE) == []


async def test_a_server_that_freezes_ends_an_asynchronous_stream(server: FreezingServer) -> None:
    async with AsyncClient(server.target) as client, client.watch() as events:
        await anext(events)
        server.freeze()
        with pytest.raises(Unavailable, match="stopped answering: nothing came for 20 s; see"):
            await asyncio.wait_for(anext(events), PATIENCE)


def test_a_server_that_is_frozen_already_ends_every_kind_of_call(server: FreezingServer) -> None:
    with Client(server.target) as client:
        client.adapters(timeout=PATIENCE)  # connected before
        server.freeze()
        calls: list[Callable[[], object]] = [
            lambda: client.generate_image("a lighthouse"),
            lambda: client.info(timeout=None),
            lambda: client.adapters(timeout=None),
            lambda: next(client.watch()),
        ]
        for call in calls:
            assert "answer" in error_message(call)


@pytest.mark.parametrize("path", [mute, unreachable])
def test_a_connection_that_never_comes_about_ends_the_call(
    path: Callable[[], contextmanager[str]],  # type: ignore[valid-type]
) -> None:
    with path() as target, Client(target) as client:
        message = error_message(lambda: client.info(timeout=None))
        assert message == (
            f"the server at {target} does not answer: no connection within 10 s; "
            "see whether it runs and can be reached, then try again"
        )
        assert "does not answer" in error_message(lambda: client.generate_image("a lighthouse"))


async def test_a_connection_that_never_comes_about_ends_an_asynchronous_call() -> None:
    with mute() as target:
        async with AsyncClient(target) as client:
            with pytest.raises(Unavailable, match="does not answer: no connection within 10 s"):
                await asyncio.wait_for(client.generate_image("a lighthouse"), PATIENCE)


def test_the_server_takes_as_many_pings_as_clients_send() -> None:
    """It would close a quiet connection with `too_many_pings` otherwise."""
    asked = dict(_channel.CHANNEL_OPTIONS)["grpc.keepalive_time_ms"]
    allowed = dict(rpc_server.KEEPALIVE)["grpc.http2.min_ping_interval_without_data_ms"]
    assert allowed <= int(asked) / 2


def test_calls_that_only_read_have_a_default_timeout() -> None:
    for client in (Client, AsyncClient):
        for method in (client.info, client.adapters):
            assert inspect.signature(method).parameters["timeout"].default == 30.0


def test_the_default_is_an_address_and_not_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """`localhost` has two addresses, and gRPC sends each of two servers half of the calls."""
    monkeypatch.delenv(_channel.TARGET_VARIABLE, raising=False)
    host, _, port = _channel.resolve_target(None).rpartition(":")
    assert (socket.inet_aton(host), int(port)) == (bytes((127, 0, 0, 1)), 50051)
