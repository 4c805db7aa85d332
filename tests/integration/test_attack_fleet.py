"""The front of a fleet under attack: it stands where the single server stands, and as firmly.

Only the front runs, without replicas: what it does before a replica is asked is the point.
"""

from __future__ import annotations

import http.client
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from inference_server.service.rpc_server import MAX_STREAMS, WINDOW_BYTES
from tests.support.http2_client import (
    END_HEADERS,
    END_STREAM,
    HEADERS,
    INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS,
    Connection,
    connected,
    frame,
    header_block,
    message,
)
from tests.support.ports import free_port
from tests.support.ray_alone import ray_alone
from wuliart_contract.limits import MAX_REQUEST_BYTES

ray = pytest.importorskip("ray", reason="needs the extra ray")
local_fleet = pytest.importorskip("scripts.local_fleet", reason="needs the extra ray")

TOKEN = "t" * 32
PATIENCE = 60.0
GENERATE = "/wuliart.v1.ImageGenerationService/GenerateImage"
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"

pytestmark = pytest.mark.timeout(600)  # the other cluster may have to end first


@dataclass(frozen=True)
class Front:
    """Addresses and token file of a running front."""

    port: int
    metrics: int
    tokens: Path


@pytest.fixture(scope="module")
def alone() -> Iterator[None]:
    with ray_alone():
        yield


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory, alone: None) -> Iterator[Front]:
    from ray import serve

    from inference_server.ray_app.app import FrontSettings, build_front
    from inference_server.ray_app.names import FRONT

    tokens = tmp_path_factory.mktemp("front") / "tokens"
    tokens.write_text(f"ann {TOKEN}\n")
    tokens.chmod(0o600)
    port, metrics = free_port(), free_port()
    path = os.pathsep.join([*map(str, local_fleet.PATHS), os.environ.get("PYTHONPATH", "")])
    os.environ |= {"PYTHONPATH": path, **local_fleet.ENVIRONMENT}
    local_fleet.start_ray(num_cpus=2)
    try:
        serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})
        listen = [
            "--listen", f"127.0.0.1:{port}", "--tokens", str(tokens),
            "--metrics", f"127.0.0.1:{metrics}",
        ]  # fmt: skip
        local_fleet._run(build_front(FrontSettings(listen=listen)), FRONT, wait=True)
        yield Front(port, metrics, tokens)
        serve.shutdown()
    finally:
        ray.shutdown()


def wait_until_ended(connection: Connection, streams: set[int]) -> None:
    end = time.monotonic() + PATIENCE
    while not streams <= connection.ended:
        assert time.monotonic() < end and not connection.gone, "calls do not end"
        connection.read(0.1)


def test_requests_without_a_token_are_not_read(front: Front) -> None:
    with connected(front.port) as connection:
        assert connection.settings[MAX_CONCURRENT_STREAMS] == MAX_STREAMS
        assert connection.settings[INITIAL_WINDOW_SIZE] == WINDOW_BYTES
        streams = {connection.call(GENERATE) for _ in range(MAX_STREAMS)}
        for stream in streams:
            connection.data(stream, message(b"x", MAX_REQUEST_BYTES))
        wait_until_ended(connection, streams)


def test_a_method_name_that_is_not_text_does_not_stop_the_front(front: Front) -> None:
    with connected(front.port) as connection:
        fields = {":method": "POST", ":scheme": "http", ":authority": "localhost"}
        rest = {"content-type": "application/grpc", "te": "trailers"}
        block = header_block(fields) + b"\0\x05:path\x03/\xff\xfe" + header_block(rest)
        connection.send(frame(HEADERS, END_HEADERS | END_STREAM, 1, block))
        wait_until_ended(connection, {1})
    with connected(front.port) as connection:
        stream = connection.call("/grpc.health.v1.Health/Check")
        connection.data(stream, message(b""), end=True)
        wait_until_ended(connection, {stream})
        assert connection.received[stream]


def test_an_open_stream_ends_with_its_token(front: Front) -> None:
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    closing = threading.Event()

    def requests() -> Iterator[bytes]:
        yield b"\x3a\x00"  # list_services
        closing.wait(PATIENCE)

    with grpc.insecure_channel(f"127.0.0.1:{front.port}") as channel:
        call: Any = channel.stream_stream(REFLECTION)(
            requests(), metadata=metadata, timeout=PATIENCE
        )
        try:
            assert b"wuliart.v1.AdapterService" in next(call)
            content = front.tokens.read_text()
            front.tokens.write_text("")
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
        finally:
            closing.set()
            front.tokens.write_text(content)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED  # type: ignore[attr-defined]


@pytest.mark.parametrize(("host", "status"), [("localhost", 200), ("evil.example", 421)])
def test_its_metrics_are_for_its_own_hosts(front: Front, host: str, status: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", front.metrics, timeout=PATIENCE)
    try:
        connection.request("GET", "/metrics", headers={"Host": host})
        assert connection.getresponse().status == status
    finally:
        connection.close()
