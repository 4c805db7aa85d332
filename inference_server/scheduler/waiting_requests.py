"""The requests that wait for a place in the batch, and the adapters that they wait for.

A request can start once its adapters are bound, that is, pinned at exact versions. Only one request
at a time may have absent adapters loaded. Meanwhile requests behind it whose adapters are resident
overtake it, so an adapter that does not load keeps no other request from the device.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

from inference_server.adapters.binding import Binding
from inference_server.errors import RequestError
from inference_server.scheduler.fair_queue import FairQueue
from inference_server.scheduler.interfaces import AdapterBinder
from inference_server.scheduler.running_request import RunningRequest

log = logging.getLogger(__name__)

MAX_OVERTAKES = 8
"""Times a request may be overtaken: images that keep every slot pinned must not starve it."""


class WaitingRequests:
    """A fair queue that binds adapters. On the event loop only; iteration is in serving order.

    Args:
        adapters: binds.
        on_load_started: called with a request whose adapters are being loaded.
        on_load_failed: called with a request, now removed, and the error of its adapters.
        on_load_ended: called after each load, whatever its result.
    """

    def __init__(
        self,
        adapters: AdapterBinder,
        *,
        on_load_started: Callable[[RunningRequest], None],
        on_load_failed: Callable[[RunningRequest, Exception], None],
        on_load_ended: Callable[[], None],
    ) -> None:
        self._adapters = adapters
        self._on_load_started = on_load_started
        self._on_load_failed = on_load_failed
        self._on_load_ended = on_load_ended
        self._queue: FairQueue[RunningRequest] = FairQueue()
        self._loads: dict[RunningRequest, asyncio.Task[Binding]] = {}
        self._loaded: dict[RunningRequest, Binding] = {}

    @property
    def is_loading(self) -> bool:
        """True while adapters of a request are being loaded, even if the request has left."""
        return bool(self._loads)

    def join(self, running: RunningRequest) -> None:
        """Adds a request behind the others of its client."""
        self._queue.join(running, running.client)

    def leave(self, running: RunningRequest) -> None:
        """Removes a cancelled request and gives up its adapters; does nothing if it has left."""
        if running in self._queue:
            self._queue.leave(running)
        if load := self._loads.get(running):
            load.cancel()
        if binding := self._loaded.pop(running, None):
            self._adapters.release(binding)

    def clear(self) -> None:
        """Empties the queue; `leave` must still be called for each request that was in it."""
        self._queue.clear()

    def has_client(self, client: str) -> bool:
        """Returns True if a request of the client waits."""
        return self._queue.has_client(client)

    def next_bound(self) -> RunningRequest | None:
        """Removes and returns the first request whose adapters are resident, bound.

        Starts to load the adapters of the first request that lacks some, if none are being loaded.
        """
        for index, running in enumerate(self._queue):
            if running not in self._loads:
                binding = self._loaded.pop(running, None)
                binding = binding or running.context().run(
                    self._adapters.try_bind, running.request.adapters
                )
                if binding is not None:
                    for overtaken in list(self._queue)[:index]:
                        overtaken.overtaken += 1
                    self._queue.take(running)
                    running.bind(binding)
                    return running
                if not self._loads and not self._loaded:
                    self._load_adapters(running)
            if running.overtaken >= MAX_OVERTAKES:
                break
        return None

    async def loads_ended(self) -> None:
        """Waits until no adapters are being loaded."""
        await asyncio.gather(*self._loads.values(), return_exceptions=True)

    def _load_adapters(self, running: RunningRequest) -> None:
        self._on_load_started(running)
        task = asyncio.create_task(
            self._adapters.bind(running.request.adapters), context=running.context()
        )
        self._loads[running] = task
        task.add_done_callback(lambda _: self._load_ended(running, task))

    def _load_ended(self, running: RunningRequest, task: asyncio.Task[Binding]) -> None:
        del self._loads[running]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, RequestError):
                fields = {"request_id": running.id}
                log.error("binding adapters failed", exc_info=error, extra=fields)
            if running in self._queue:
                self._queue.leave(running)
                failure = error if isinstance(error, Exception) else RuntimeError(str(error))
                self._on_load_failed(running, failure)
        elif not task.cancelled():
            if running.cancelled:
                self._adapters.release(task.result())
            else:
                self._loaded[running] = task.result()
        self._on_load_ended()

    def __contains__(self, running: object) -> bool:
        return running in self._queue

    def __iter__(self) -> Iterator[RunningRequest]:
        return iter(self._queue)

    def __len__(self) -> int:
        return len(self._queue)
