"""`grpc.aio`'s server, hardened against unknown clients.

Owns what gRPC itself does with a call before a handler sees it: the limits of a connection, and
methods that do not exist. Knows nothing of the services.
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
    # A peer that vanished without closing (stopped process, pulled cable) is noticed in 15 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    # gRPC's own default of 60 s would override the timeout above.
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Clients ask every 10 s themselves; pings that come faster than this end their connection. The
    # default of 5 minutes ended a quiet watch after 40 s.
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
)

MAX_STREAMS: Final = 512
"""Calls that one connection may have open; gRPC's clients queue those beyond."""

WINDOW_BYTES: Final = 16 << 10
"""Of a request, what a client may send before the server asks for it: a whole prompt."""

BOUNDS: Final = (
    ("grpc.max_receive_message_length", MAX_REQUEST_BYTES),
    ("grpc.max_send_message_length", MAX_RESPONSE_BYTES),
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    # Calls that have ended, but are not freed yet; gRPC's default is so low that a busy client is
    # refused calls below the bound above.
    ("grpc.http2.max_deallocating_streams", MAX_STREAMS),
    ("grpc.http2.lookahead_bytes", WINDOW_BYTES),
    # Would let windows grow to hundreds of megabytes; requests are small, so there is no need.
    ("grpc.http2.bdp_probe", 0),
    # Of a connection that does not complete its TLS handshake or its HTTP/2 settings.
    ("grpc.server_handshake_timeout_ms", 10_000),
    # Two servers on one port would each get some of the calls.
    ("grpc.so_reuseport", 0),
)


def public_server(interceptors: Sequence[aio.ServerInterceptor]) -> aio.Server:
    """Creates a server for unknown clients; to be called on the event loop."""
    return cast(aio.Server, _PublicServer(interceptors))


class _PublicServer(Server):
    def __init__(self, interceptors: Sequence[aio.ServerInterceptor]) -> None:
        # Not the base's own: it names the class of its core, and sets nothing else.
        self._loop = asyncio.get_running_loop()
        options = (*BOUNDS, *KEEPALIVE)
        self._server = _Core(self._loop, None, (), tuple(interceptors), options, None)


class _Core(cygrpc.AioServer):  # type: ignore[misc]
    """Answers calls of methods that do not exist without looking at the method's name.

    gRPC 1.85 decodes the name on its serving loop, which ends, and with it the server, when the
    name is not UTF-8: one frame of a stranger's. Existing methods do not come here: generated code
    registers them by name.
    """

    _answers: set[asyncio.Task[None]]

    async def _request_call(self) -> Any:
        """Never returns a call; raises when the server stops, as the overridden method does."""
        loop = asyncio.get_running_loop()
        self._answers = set()
        while True:
            call = await super()._request_call()
            answering = cygrpc._handle_rpc("", _NO_METHODS, (), call, loop, False)
            task = loop.create_task(cygrpc._schedule_rpc_coro(answering, call, loop, ""))
            # The loop itself holds tasks weakly.
            self._answers.add(task)
            task.add_done_callback(self._answers.discard)


_NO_METHODS: Final = cygrpc._MethodResolver([], {})
