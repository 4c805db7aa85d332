"""Every method that there is or might be, with every kind of wrong request: one plain status each.

The server runs in a process of its own, so that its whole log can be looked at.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncIterator, Iterator
from typing import Any

import grpc
import pytest
from grpc import aio
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from tests.support.fakes import DEADLINE
from tests.support.http2_client import connected, message
from tests.support.served_process import Served, served
from wuliart.v1 import adapter_pb2, image_generation_pb2

TOKEN = "t" * 32
PATHS = [
    f"/{method.containing_service.full_name}/{method.name}"
    for module in (image_generation_pb2, adapter_pb2, reflection_pb2, health_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
] + [
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
    "/wuliart.internal.v1.SegmentService/Attach",
    "/no.such.Service/Method",
    "/grpc.health.v1.Health/NoSuchMethod",
]
OPEN = {"/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"}
BODIES = {
    "empty": message(b""),
    "garbage": message(b"\xff\xff\xff"),
    "not UTF-8": message(b"\x0a\x02\xff\xfe"),
    "two messages": message(b"") + message(b"\xff"),
    "compressed that is not": struct.pack(">BI", 1, 3) + b"abc",
    "an unknown flag": struct.pack(">BI", 7, 3) + b"abc",
    "cut off": struct.pack(">BI", 0, 300) + b"abc",
    "nothing": b"",
    "too large": message(b"x", 1 << 30),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(f"ann {TOKEN}\n")
    tokens.chmod(0o600)
    with served("--listen", "127.0.0.1:0", "--tokens", str(tokens)) as running:
        yield running


@pytest.fixture
async def channel(server: Served) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(f"127.0.0.1:{server.port}") as open_channel:
        yield open_channel


@pytest.mark.parametrize("header", ["", f"Bearer {TOKEN}"], ids=["stranger", "ann"])
@pytest.mark.parametrize("path", PATHS)
def test_no_request_makes_a_traceback(server: Served, path: str, header: str) -> None:
    headers = {"grpc-timeout": "300m"} | ({"authorization": header} if header else {})
    with connected(server.port) as connection:
        for body in BODIES.values():
            stream = connection.call(path, headers)
            connection.data(stream, body, end=True)
            while stream not in connection.ended and not connection.gone:
                assert connection.read(DEADLINE), "no answer"
    assert "Traceback" not in server.said and " ERROR " not in server.said, server.said


@pytest.mark.parametrize("path", PATHS)
async def test_no_answer_is_an_exception_of_the_servers(channel: aio.Channel, path: str) -> None:
    for metadata in ((), (("authorization", f"Bearer {TOKEN}"),)):
        for body in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
            call: Any = channel.unary_stream(path)(body, metadata=metadata, timeout=1)
            code, said = await end_of(call)
            assert code in (
                grpc.StatusCode.OK,
                grpc.StatusCode.UNAUTHENTICATED,
                grpc.StatusCode.UNIMPLEMENTED,
                grpc.StatusCode.INVALID_ARGUMENT,
                grpc.StatusCode.NOT_FOUND,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            ), said
            for raw in ("Exception", "Unexpected", "<class", "Error:", "codec"):
                assert raw not in said


async def end_of(call: Any) -> tuple[grpc.StatusCode, str]:
    try:
        while await call.read() is not aio.EOF:
            pass
    except aio.AioRpcError as error:
        return error.code(), error.details() or ""
    return await call.code(), await call.details() or ""


async def test_an_untrusted_client_learns_one_status_and_no_names(channel: aio.Channel) -> None:
    for path in PATHS:
        code, _ = await end_of(channel.unary_stream(path)(b"", timeout=0.5))
        if path in OPEN:
            assert code in (grpc.StatusCode.OK, grpc.StatusCode.DEADLINE_EXCEEDED)
        else:
            assert code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.UNIMPLEMENTED)


async def test_with_a_token_health_lists_its_services(channel: aio.Channel) -> None:
    pb: Any = health_pb2
    listing = channel.unary_unary(
        "/grpc.health.v1.Health/List",
        pb.HealthListRequest.SerializeToString,
        pb.HealthListResponse.FromString,
    )
    metadata = (("authorization", f"Bearer {TOKEN}"),)
    answer = await listing(pb.HealthListRequest(), metadata=metadata, timeout=DEADLINE)
    assert set(answer.statuses) == {
        "",
        "wuliart.v1.ImageGenerationService",
        "wuliart.v1.AdapterService",
    }
    assert {s.status for s in answer.statuses.values()} == {pb.HealthCheckResponse.SERVING}
