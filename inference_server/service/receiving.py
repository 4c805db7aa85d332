"""Turns handlers of every kind into stream handlers that limit how long a request may take.

gRPC reads the request of a unary handler before any interceptor can reject the call, and waits for
it without a time limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final

from grpc import aio

from inference_server.errors import RequestError, Violation
from wuliart_contract.status import Reason

SECONDS: Final = 10.0
"""Time from the call's headers to the last byte of its request."""

Context = aio.ServicerContext[Any, Any]

Stream = Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]
"""A handler of any kind of method, as a function from requests to responses."""


def as_stream(handler: Any) -> Stream:
    """Returns the behaviour of a `grpc.RpcMethodHandler`; it reads nothing until it is iterated."""
    match handler.request_streaming, handler.response_streaming:
        case True, True:
            behaviour: Stream = handler.stream_stream
            return behaviour
        case False, True:
            return _one_to_many(handler.unary_stream)
        case False, False:
            return _one_to_one(handler.unary_unary)
    raise NotImplementedError("a method that takes a stream and returns one response")


def _one_to_many(inner: Callable[[Any, Context], AsyncIterator[Any]]) -> Stream:
    async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        responding: Any = inner(await _request(requests), context)
        async with aclosing(responding) as responses:
            async for response in responses:
                yield response

    return stream


def _one_to_one(inner: Callable[[Any, Context], Awaitable[Any]]) -> Stream:
    async def stream(requests: AsyncIterator[Any], context: Context) -> AsyncIterator[Any]:
        yield await inner(await _request(requests), context)

    return stream


async def _request(requests: AsyncIterator[Any]) -> Any:
    """Reads the one request of a call.

    Raises:
        RequestError: INVALID_REQUEST, if the request does not arrive in time or at all.
    """
    try:
        async with asyncio.timeout(SECONDS):
            return await anext(requests)
    except TimeoutError:
        message = f"the request had not arrived {SECONDS:.0f} s after the call began; send it whole"
    except StopAsyncIteration:
        message = "the call ended without a request"
    raise RequestError(
        Reason.INVALID_REQUEST, message, violations=[Violation("", "must be one whole message")]
    )
