"""A running call as an iterator of typed events that can be left at any time.

A `Reader` makes the events from the responses.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import grpc
from grpc import aio

from wuliart_client._exceptions import Cancelled, ProtocolError
from wuliart_client._failures import CallContext, translate

EventT = TypeVar("EventT")
EventT_co = TypeVar("EventT_co", covariant=True)


class Reader(Protocol[EventT_co]):
    """Makes the events of one call from its responses."""

    def read(self, response: Any) -> EventT_co | None:
        """The event that a response completes, if it does; ProtocolError if it makes no sense."""

    def end(self) -> None:
        """The server ended the stream with OK; ProtocolError if that was too early."""


class _Responses(Protocol):
    """The object that `grpc` returns for a unary-stream call."""

    def __next__(self) -> Any: ...

    def cancel(self) -> bool: ...


class EventStream(Iterator[EventT], Generic[EventT]):
    """The events of one call, as they arrive.

    Leaving it early cancels the call: by the end of a `with` block, by `close()`, by `cancel()`,
    or by a `break` out of a `for` loop that holds the only reference. Iterating raises a
    `WuliArtError` if the call fails. `cancel()` may be called from any thread.
    """

    def __init__(self, responses: _Responses, reader: Reader[EventT], context: CallContext) -> None:
        self._responses = responses
        self._reader = reader
        self._context = context
        self._answered = False
        self._over = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> EventT:
        while (event := self._read()) is None:
            pass
        return event

    def _read(self) -> EventT | None:
        if self._over:
            raise StopIteration
        try:
            event = self._reader.read(next(self._responses))
        except StopIteration:
            self._over = True
            self._reader.end()
            raise
        except grpc.RpcError as error:
            self._over = True
            raise translate(error, self._context, answered=self._answered) from error
        except ProtocolError:
            self.close()
            raise
        self._answered = True
        return event

    def cancel(self) -> None:
        """Cancels the call; iterating then raises `Cancelled`. No effect on one that ended."""
        self._responses.cancel()

    def close(self) -> None:
        """Cancels the call if it still runs, and ends the iteration."""
        self._over = True
        self._responses.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        self._responses.cancel()


class AsyncEventStream(AsyncIterator[EventT], Generic[EventT]):
    """The twin of `EventStream` for asyncio; cancelling the task that iterates cancels the call.

    `cancel()` must be called from the event loop's thread.
    """

    def __init__(
        self,
        call: aio.UnaryStreamCall[Any, Any],
        reader: Reader[EventT],
        context: CallContext,
    ) -> None:
        self._call = call
        self._responses = aiter(call)
        self._reader = reader
        self._context = context
        self._answered = False
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> EventT:
        while (event := await self._read()) is None:
            pass
        return event

    async def _read(self) -> EventT | None:
        if self._over:
            raise StopAsyncIteration
        try:
            event = self._reader.read(await anext(self._responses))
        except StopAsyncIteration:
            self._over = True
            self._reader.end()
            raise
        except grpc.RpcError as error:
            self._over = True
            raise translate(error, self._context, answered=self._answered) from error
        except asyncio.CancelledError as error:
            self._over = True
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                self._call.cancel()
                raise
            # grpc.aio raises the same for our own `cancel()`, where no task was cancelled.
            raise Cancelled("the call was cancelled") from error
        except ProtocolError:
            await self.aclose()
            raise
        self._answered = True
        return event

    def cancel(self) -> None:
        """Cancels the call; iterating then raises `Cancelled`. No effect on one that ended."""
        self._call.cancel()

    async def aclose(self) -> None:
        """Cancels the call if it still runs, and ends the iteration."""
        self._over = True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # grpc.aio's call is part of a reference cycle: on its own it would run on until the next
        # garbage collection. An event loop that is closed has ended it already.
        with suppress(RuntimeError):
            self._call.cancel()
