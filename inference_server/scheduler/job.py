"""One accepted request and the channel its caller reads events from.

Owns cancellation (the event loop cancels, the device thread looks at it between stages) and what
the caller was last told of its position. Knows nothing of the queue it stands in.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator

from inference_server.scheduler.events import Completed, DrawRequest, Event, Queued


class Job:
    """A request on its way to a picture. Created and read on the event loop."""

    def __init__(self, request: DrawRequest) -> None:
        self.request = request
        self.arrived_at = time.perf_counter()
        self.overtaken = 0
        """How many jobs that came later were drawn first."""
        self._position = 0
        self._cancelled = threading.Event()
        self._events: asyncio.Queue[Event | Exception] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    @property
    def cancelled(self) -> bool:
        """Whether the caller has gone; safe to read from any thread."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """The caller has gone: stop before the next step, skip the decode. On the event loop."""
        self._cancelled.set()

    def post(self, event: Event | Exception) -> None:
        """Hands an event to the caller; an exception ends the stream. From the event loop only."""
        self._events.put_nowait(event)

    def tell_position(self, position: int) -> None:
        """Tells the caller how many come first, if that has changed."""
        if position != self._position:
            self._position = position
            self.post(Queued(position))

    def post_from_thread(self, event: Event) -> None:
        """The same from the device thread."""
        self._loop.call_soon_threadsafe(self._events.put_nowait, event)

    async def events(self) -> AsyncIterator[Event]:
        """Events until the picture is complete.

        Raises:
            Exception: whatever ended the job without a picture.
        """
        while True:
            event = await self._events.get()
            if isinstance(event, Exception):
                raise event
            yield event
            if isinstance(event, Completed):
                return
