"""Turns exceptions into gRPC statuses with ErrorInfo, BadRequest and RetryInfo.

An exception that is not a `RequestError` is logged in full and reaches the client as INTERNAL,
without its text.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, NoReturn
from urllib.parse import quote

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc import aio

from inference_server.errors import RequestError, Violation
from inference_server.logs import REQUEST_ID
from wuliart_contract.status import CODES, DOMAIN, Reason

log = logging.getLogger(__name__)

DETAILS_KEY = "grpc-status-details-bin"
"""Metadata key of a google.rpc.Status; see grpc_status.rpc_status."""

MAX_MESSAGE_BYTES = 2000
MAX_DESCRIPTION_BYTES = 300
MAX_STATUS_BYTES = 4000
"""gRPC drops a status whose trailing metadata exceed 8 KiB, and the explanation with it. The
message is sent twice: percent-encoded, and inside the details, which are sent in base64."""


class Malformed:
    """Takes the place of a request whose bytes could not be parsed."""


def to_status(error: RequestError) -> status_pb2.Status:
    """Returns the error as a google.rpc.Status."""
    code = CODES[error.reason]
    status = status_pb2.Status(
        code=code_pb2.Code.Value(code.name), message=_cut(error.message, MAX_MESSAGE_BYTES)
    )
    info = error_details_pb2.ErrorInfo(
        reason=error.reason.value, domain=DOMAIN, metadata=error.metadata
    )
    status.details.add().Pack(info)
    if error.violations:
        bad = error_details_pb2.BadRequest(
            field_violations=[
                error_details_pb2.BadRequest.FieldViolation(
                    field=v.field, description=_cut(v.description, MAX_DESCRIPTION_BYTES)
                )
                for v in error.violations
            ]
        )
        while status.ByteSize() + bad.ByteSize() > MAX_STATUS_BYTES:
            del bad.field_violations[-1]
        status.details.add().Pack(bad)
    if error.retry_after is not None:
        delay = Duration()
        delay.FromMilliseconds(int(error.retry_after * 1000))
        status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
    return status


def _cut(text: str, budget: int) -> str:
    """Returns as much of the beginning of the text as fits `budget` bytes percent-encoded."""
    if len(quote(text)) <= budget:
        return text
    kept = 0
    left = budget - len(quote("…"))
    for character in text:
        left -= len(quote(character))
        if left < 0:
            break
        kept += 1
    return text[:kept] + "…"


async def abort(context: aio.ServicerContext[Any, Any], error: RequestError) -> NoReturn:
    """Ends the call with the error's status."""
    status = to_status(error)
    trailers: list[tuple[str, str | bytes]] = [(DETAILS_KEY, status.SerializeToString())]
    if request_id := REQUEST_ID.get():
        trailers.append(("x-request-id", request_id))
    await context.abort(CODES[error.reason], status.message, tuple(trailers))
    raise AssertionError("abort returned")


def _translate(error: Exception) -> RequestError:
    if isinstance(error, RequestError):
        return error
    log.error("a handler failed", exc_info=error)
    return RequestError(Reason.INTERNAL, "the server failed; its log has the details")


MALFORMED = RequestError(
    Reason.INVALID_REQUEST,
    "the request could not be read: it is not a valid message, or a text in it is not UTF-8",
    violations=[Violation("", "must be a valid protobuf message with UTF-8 strings")],
)


class StatusInterceptor(aio.ServerInterceptor):
    """Turns the exceptions of every handler into statuses."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """Wraps the handler of one call."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        parse = handler.request_deserializer

        def lenient(data: bytes) -> Any:
            # gRPC would send INTERNAL with the text of the Python exception.
            try:
                return parse(data) if parse else data
            except DecodeError:
                return Malformed()

        guarded: dict[str, Any]
        if handler.request_streaming:
            guarded = {"stream_stream": _guard_stream(handler.stream_stream)}
        elif handler.response_streaming:
            guarded = {"unary_stream": _guard_stream(handler.unary_stream)}
        else:
            guarded = {"unary_unary": _guard_unary(handler.unary_unary)}
        return handler._replace(request_deserializer=lenient, **guarded)


def _guard_unary(inner: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> Any:
        if isinstance(request, Malformed):
            await abort(context, MALFORMED)
        try:
            return await inner(request, context)
        except _OF_GRPC:
            raise
        except Exception as error:
            await abort(context, _translate(error))

    return guarded


def _guard_stream(inner: Callable[..., AsyncIterator[Any]]) -> Callable[..., AsyncIterator[Any]]:
    async def guarded(request: Any, context: aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        if isinstance(request, Malformed):
            await abort(context, MALFORMED)
        try:
            requests = _well_formed(request) if isinstance(request, AsyncIterator) else request
            responding: Any = inner(requests, context)
            async with aclosing(responding) as responses:
                async for response in responses:
                    yield response
        except _OF_GRPC:
            raise
        except Exception as error:
            await abort(context, _translate(error))

    return guarded


async def _well_formed(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        if isinstance(request, Malformed):
            raise MALFORMED
        yield request


_OF_GRPC: Final = (aio.AbortError, aio.InternalError)
"""Raised by gRPC for a call that already has a status, or whose client is gone."""
