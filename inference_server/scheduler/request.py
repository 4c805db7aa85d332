"""One accepted request and the channel its client reads events from.

Owns its id, cancellation (the event loop cancels, the device thread looks at it between stages) and
what the client was last told of its position. Knows nothing of the queue it stands in.
"""

from __future__ import annotations

import asyncio
import secrets
import threading
import time
from collections.abc import AsyncIterator
from contextvars import Context, copy_context

from inference_server.logs import REQUEST_ID
from inference_server.scheduler.events import Completed, Event, ImageRequest, Queued

ID_BYTES = 8


class Job:
    """A request on its way to an image. Created and read on the event loop.

    Args:
        request: what is to be generated.
        request_id: what the client calls it; empty: a random one.
        client: who asks.
    """

    def __init__(self, request: ImageRequest, request_id: str = "", client: str = "") -> None:
        self.id = request_id or secrets.token_hex(ID_BYTES)
        self.request = request
        self.client = client
        self.arrived_at = time.perf_counter()
        self.overtaken = 0
        """How many jobs that came later were generated first."""
        self.ended = False
        """Whether it has been told what became of it."""
        self.position = 0
        """What it was last told; 0: nothing yet."""
        self._cancelled = threading.Event()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        self._context = copy_context()
        self._context.run(REQUEST_ID.set, self.id)

    @property
    def cancelled(self) -> bool:
        """Whether the client has gone; safe to read from any thread."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """The client has gone: stop before the next step, skip the decode. On the event loop."""
        self._cancelled.set()

    def context(self) -> Context:
        """For work on this job: what is logged inside carries its id. A fresh one for each use."""
        return self._context.copy()

    def post(self, event: Event | Exception) -> None:
        """Hands an event to the client; an exception ends the stream. From the event loop only."""
        self._events.put_nowait(event)

    def tell_position(self, position: int) -> None:
        """Tells the client how many come first, if that has changed."""
        if position != self.position:
            self.position = position
            self.post(Queued(position))

    def post_from_thread(self, event: Event) -> None:
        """The same from the device thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Event]:
        """Events until the image is complete.

        Raises:
            Exception: whatever ended the job without an image.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Completed):
                return
