"""Clients that ask as often as the server itself whether the other is there, on a quiet watch."""

from __future__ import annotations

import asyncio
import contextlib

import grpc
import pytest
from grpc import aio

from inference_server.service import rpc_server
from tests.support.harness import running_server
from wuliart.v1.adapter_pb2 import WatchAdaptersRequest
from wuliart.v1.adapter_pb2_grpc import AdapterServiceStub

SCALE = 10
"""All times of the server's are this much shorter here. gRPC's clients send no two pings within a
second, so they cannot be shorter still."""

QUIET_SECONDS = 6.0
"""A minute, scaled. gRPC closed such a connection at its third ping, after half of it."""


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    shorter = tuple(
        (name, value // SCALE if name.endswith("_ms") else value)
        for name, value in rpc_server.KEEPALIVE
    )
    monkeypatch.setattr(rpc_server, "KEEPALIVE", shorter)


async def ended(target: str, keepalive_ms: int) -> grpc.StatusCode | None:
    """How a quiet watch of a client with this interval has ended; None if it goes on."""
    options = [
        ("grpc.keepalive_time_ms", keepalive_ms),
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.use_local_subchannel_pool", 1),
    ]
    async with aio.insecure_channel(target, options=options) as channel:
        call = AdapterServiceStub(channel).WatchAdapters(WatchAdaptersRequest())
        await call.read()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(QUIET_SECONDS):
                try:
                    await call.read()
                except grpc.RpcError as error:
                    return error.code()
        return None


async def test_a_client_may_ask_as_often_as_the_server_itself() -> None:
    own = dict(rpc_server.KEEPALIVE)["grpc.keepalive_time_ms"]
    async with running_server() as server:
        assert await ended(server.target, own) is None
