"""Admits or rejects every public call, before its request is read.

A call without a valid token, or over a limit of its client, ends here. The limits themselves are in
`clients`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import grpc
from grpc import aio

from inference_server.errors import RequestError
from inference_server.service import health
from inference_server.service.clients import CLIENT, ClientLimits, Clients, ConnectionLimits
from inference_server.service.receiving import Stream, as_stream
from inference_server.service.status import abort
from wuliart_contract.status import Reason

PROBES: Final = (f"/{health.NAME}/Check", f"/{health.NAME}/Watch")
"""Methods that need no token: they return nothing but the health status."""

MAX_PROBES: Final = 16
"""Calls of `PROBES` without a token that one connection may have open."""

GENERATE: Final = "/wuliart.v1.ImageGenerationService/GenerateImage"

Context = aio.ServicerContext[Any, Any]


class Guard(aio.ServerInterceptor):
    """The first interceptor of the public server.

    Args:
        clients: identifies the client of a call.
        limits: of each client.
        on_reject: called with the reason of each call that is rejected.
    """

    def __init__(
        self, clients: Clients, limits: ClientLimits, on_reject: Callable[[Reason], None]
    ) -> None:
        self._clients = clients
        self._limits = limits
        self._probe_limits = ConnectionLimits(MAX_PROBES)
        self._on_reject = on_reject

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call.

        Every method becomes a stream-stream method, which is the same on the wire: gRPC then reads
        no request before the handler asks for one, and the handler sees if a write fails.
        """
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        guarded = self._guarded(as_stream(handler), handler_call_details.method)
        return grpc.stream_stream_rpc_method_handler(
            guarded, handler.request_deserializer, handler.response_serializer
        )

    def _guarded(self, stream: Stream, method: str) -> Callable[..., Awaitable[None]]:
        async def guarded(requests: AsyncIterator[Any], context: Context) -> None:
            try:
                async with self._admitted(method, context):
                    await _write_responses(stream, requests, context)
            except RequestError as error:
                # Raised by the guard itself: a handler's errors have become a status already.
                self._on_reject(error.reason)
                await _completed(abort(context, error))

        return guarded

    @asynccontextmanager
    async def _admitted(self, method: str, context: Context) -> AsyncIterator[None]:
        """Runs the body while the client may have the call open.

        Raises:
            RequestError: UNAUTHENTICATED or RATE_LIMITED.
        """
        if method in PROBES and self._clients.requires_token:
            with self._probe_limits.open_call(context.peer()):
                yield
            return
        metadata: Any = context.invocation_metadata() or ()
        async with self._clients.identified(metadata, context.peer()) as name:
            CLIENT.set(name)
            if method != GENERATE:
                yield
                return
            with self._limits.image(name):
                yield


async def _write_responses(stream: Stream, requests: AsyncIterator[Any], context: Context) -> None:
    responding: Any = stream(requests, context)
    async with aclosing(responding) as responses:
        async for response in responses:
            await _completed(context.write(response))


async def _completed(write: Awaitable[None]) -> None:
    """Waits until a write is complete; cancels the call if its client has gone."""
    try:
        await write
    except aio.InternalError:
        # gRPC would log a traceback for each client that does not read to the end.
        raise asyncio.CancelledError from None
