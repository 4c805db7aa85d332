"""One accepted request from the queue to its last event."""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextvars import Context, copy_context

from inference_server.adapters.binding import Binding
from inference_server.logs import REQUEST_ID
from inference_server.scheduler.events import AdapterUse, Completed, Event, Queued
from inference_server.scheduler.image_request import ImageRequest

ID_BYTES = 8


class RunningRequest:
    """A request, its adapters, its progress, and the channel its client reads events from.

    The event loop creates it, cancels it and reads its events. The device thread reads `cancelled`
    between stages and writes the times and `steps_done`.

    Args:
        request: what is to be generated.
        request_id: the client's name for it; empty: a random one.
        client: identity that the fair queue counts the request under.
    """

    def __init__(self, request: ImageRequest, request_id: str = "", client: str = "") -> None:
        self.id = request_id or secrets.token_hex(ID_BYTES)
        self.request = request
        self.client = client
        self.arrived_at = time.perf_counter()
        self.overtaken = 0
        """Later requests that were started first."""
        self.position = 0
        """Last reported queue position; 0: none reported yet."""
        self.outcome_recorded = False
        self.binding = Binding((), ())
        """Exact adapter versions; empty until `bind`."""
        self.adapter_uses: tuple[AdapterUse, ...] = ()
        self.started_at = 0.0
        """`time.perf_counter()` when the batch had a place for it; 0: it still waits for one."""
        self.encoded_at = 0.0
        """`time.perf_counter()` when its prompt was encoded and its steps could begin."""
        self.steps_done = 0
        self.stage_seconds: dict[str, float] = {}
        """Seconds of each stage on the device; filled by the decode."""
        self._cancelled = threading.Event()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(REQUEST_ID.set, self.id)

    @property
    def cancelled(self) -> bool:
        """True once the client has gone; safe to read from any thread."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Marks the request as cancelled: no further step, no decode."""
        self._cancelled.set()

    def bind(self, binding: Binding) -> None:
        """Fixes the adapter versions that the image is generated with."""
        self.binding = binding
        self.adapter_uses = tuple(
            AdapterUse(
                name=adapter.name,
                weight=adapter.weight,
                content_hash=pin.content.entry.content_hash,
                generation=pin.content.generation,
                autov3=pin.content.entry.autov3,
            )
            for adapter, pin in zip(binding.adapters, binding.pins, strict=True)
        )

    def context(self) -> Context:
        """Returns a fresh context in which log records carry this request's id."""
        return self._context.copy()

    def post(self, event: Event | Exception) -> None:
        """Sends an event to the client; an exception ends the stream. On the event loop only."""
        self._events.put_nowait(event)

    def post_from_thread(self, event: Event) -> None:
        """Sends an event to the client, from the device thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    def report_position(self, position: int) -> None:
        """Sends the queue position to the client if it has changed."""
        if position != self.position:
            self.position = position
            self.post(Queued(position))

    async def events(self) -> AsyncIterator[Event]:
        """Yields events until the image is complete.

        Raises:
            Exception: the error that ended the request without an image.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Completed):
                return
