"""Stands before every public call: what a client without credentials sends is not even read.

Owns which methods are open to every client, what a refused call is answered with, and the writing
of responses. The names and limits are `clients`'.
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

OPEN: Final = (f"/{health.NAME}/Check", f"/{health.NAME}/Watch")
"""Probes have no token, and learn nothing but whether the server serves."""

OPEN_AT_ONCE: Final = 16
"""Calls of `OPEN` that one connection may have open."""

DRAWS: Final = "/wuliart.v1.ImageGenerationService/GenerateImage"

Context = aio.ServicerContext[Any, Any]


class Guard(aio.ServerInterceptor):
    """Comes before everything else that looks at a call.

    Args:
        clients: the clients' names.
        limits: of each client.
        refused: called with the reason of each call that is turned away.
    """

    def __init__(
        self, clients: Clients, limits: ClientLimits, refused: Callable[[Reason], None]
    ) -> None:
        self._clients = clients
        self._limits = limits
        self._strangers = ConnectionLimits(OPEN_AT_ONCE)
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call.

        Every method becomes one of streams, which on the wire is the same: gRPC reads no request
        before the handler asks for it, and the handler sees how its writing ends.
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
                    await _answer(stream, requests, context)
            except RequestError as error:
                # What a handler raises is a status already.
                self._refused(error.reason)
                await _ended(abort(context, error))

        return guarded

    @asynccontextmanager
    async def _admitted(self, method: str, context: Context) -> AsyncIterator[None]:
        """As long as the client may have the call open.

        Raises:
            RequestError: UNAUTHENTICATED or RATE_LIMITED.
        """
        if method in OPEN and self._clients.strangers:
            with self._strangers.one(context.peer()):
                yield
            return
        metadata: Any = context.invocation_metadata() or ()
        async with self._clients.identified(metadata, context.peer()) as name:
            CLIENT.set(name)
            if method != DRAWS:
                yield
                return
            with self._limits.drawing(name):
                yield


async def _answer(stream: Stream, requests: AsyncIterator[Any], context: Context) -> None:
    responding: Any = stream(requests, context)
    async with aclosing(responding) as responses:
        async for response in responses:
            await _ended(context.write(response))


async def _ended(sending: Awaitable[None]) -> None:
    """Waits for what is sent; a client that has gone without reading it cancels the call."""
    try:
        await sending
    except aio.InternalError:
        # gRPC would log a traceback for each client that does not read to the end.
        raise asyncio.CancelledError from None
