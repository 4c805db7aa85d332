"""`grpc.aio`'s server, hardened against untrusted clients.

Sets the limits of connections, and replaces gRPC's handling of methods that do not exist.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, Final, cast

from grpc import aio
from grpc._cython import cygrpc
from grpc.aio._server import Server

from wuliart_contract.limits import MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES

KEEPALIVE: Final = (
    # A peer that vanishes without closing (stopped process, pulled cable) is detected in 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # gRPC's own default of 60 s would override the timeout above.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ping every 10 s; faster pings than this end the connection. The default of 5 minutes
    # ended an idle watch after 40 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

MAX_STREAMS: Final = 512
"""Calls that one connection may have open; gRPC clients queue further ones."""

WINDOW_BYTES: Final = 16 << 10
"""Bytes of a request that a client may send before the server reads it: a whole prompt."""

BOUNDS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # Calls that have ended and are not freed yet. With gRPC's default, a busy client's calls are
    # rejected below the bound above.
    ("grpc.http2.max_deallocating_streams", MAX_STREAMS),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # The probe would let windows grow to hundreds of megabytes; requests are small.
    ("grpc.http2.bdp_probe", 0),
    # Time for the TLS handshake and the HTTP/2 settings.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Two servers on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
)


def public_server(interceptors: Sequence[aio.ServerInterceptor]) -> aio.Server:
    """Creates a server for untrusted clients; to be called on the event loop."""
    return cast(aio.Server, _PublicServer(interceptors))


class _PublicServer(Server):
    def __init__(self, interceptors: Sequence[aio.ServerInterceptor]) -> None:
        # Does not call the base's __init__, which sets only these, with its own core class.
        self._loop = asyncio.get_running_loop()
        options = (*BOUNDS, *KEEPALIVE)
        self._server = _Core(self._loop, None, (), tuple(interceptors), options, None)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Responds to calls of methods that do not exist without decoding the method's name.

    gRPC 1.85 decodes the name in its serving loop. If it is not UTF-8, the loop ends, and the
    server with it: one frame from any client is enough. Calls of existing methods do not reach this
    loop: generated code registers them by name.
    """

    _answers: set[asyncio.Task[None]]

    async def _request_call(self) -> Any:
        """Never returns a call; raises when the server stops, as the base does."""
        loop = asyncio.get_running_loop()
        self._answers = set()
        while True:
            call = await super()._request_call()
            answering = cygrpc._handle_rpc("", _NO_METHODS, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answering, call, loop, ""))
            # The event loop holds tasks weakly.
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)


_NO_METHODS: Final = cygrpc._MethodResolver([], {})
