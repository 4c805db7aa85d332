"""Stands before every public call: who is not known does not get in.

Owns which services are open to everybody, and what a refused call is answered with. The names and
limits are `callers`'.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
from grpc import aio

from inference_server.errors import RequestError
from inference_server.service.callers import CALLER, CallerLimits, Callers
from inference_server.service.status import abort
from wuliart.contract.status import Reason

OPEN: Final = "/grpc.health.v1.Health/"
"""Probes have no token, and learn nothing but whether the server is there."""

DRAWS: Final = "/wuliart.v1.ImageGenerationService/GenerateImage"

Context = aio.ServicerContext[Any, Any]


class Guard(aio.ServerInterceptor):
    """Comes before everything else that looks at a call.

    Args:
        callers: who they are.
        limits: of each.
        refused: told the reason of each call that is turned away.
    """

    def __init__(
        self, callers: Callers, limits: CallerLimits, refused: Callable[[Reason], None]
    ) -> None:
        self._callers = callers
        self._limits = limits
        self._refused = refused

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN):
            return handler
        limited = handler_call_details.method == DRAWS
        # What the request says is read behind the guard, not before it.
        if handler.response_streaming:
            kind = "stream_stream" if handler.request_streaming else "unary_stream"
            return handler._replace(**{kind: self._stream(getattr(handler, kind), limited)})
        kind = "stream_unary" if handler.request_streaming else "unary_unary"
        return handler._replace(**{kind: self._unary(getattr(handler, kind))})

    def _identify(self, context: Context) -> str:
        metadata: Any = context.invocation_metadata() or ()
        name = self._callers.identify(metadata, context.peer())
        CALLER.set(name)
        return name

    def _unary(self, inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def guarded(request: Any, context: Context) -> Any:
            try:
                self._identify(context)
            except RequestError as error:
                self._refused(error.reason)
                await abort(context, error)
            return await inner(request, context)

        return guarded

    def _stream(
        self, inner: Callable[..., AsyncIterator[Any]], limited: bool
    ) -> Callable[..., AsyncIterator[Any]]:
        async def guarded(request: Any, context: Context) -> AsyncIterator[Any]:
            try:
                name = self._identify(context)
                if not limited:
                    async for response in inner(request, context):
                        yield response
                    return
                with self._limits.drawing(name):
                    async for response in inner(request, context):
                        yield response
            except RequestError as error:
                # `inner` turns its own failures into statuses itself.
                self._refused(error.reason)
                await abort(context, error)

        return guarded
