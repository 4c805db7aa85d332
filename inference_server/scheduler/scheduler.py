"""Accepts requests, moves them from the queue into the batch, and delivers their results.

As many images as the batch's capacity allows share each step, and one more request stands by.
Everything but the device work runs on the event loop, and every change of state ends in `_advance`,
which starts all that can start.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from torch import Tensor

from inference_server.errors import RequestError
from inference_server.scheduler.batch import Batch, RequestCancelledError
from inference_server.scheduler.device_loop import DeviceLoop
from inference_server.scheduler.image_request import ImageRequest
from inference_server.scheduler.interfaces import AdapterBinder, ImageEngine
from inference_server.scheduler.jpeg_thread import Describe, JpegThread
from inference_server.scheduler.metrics import ImageMetrics
from inference_server.scheduler.outcomes import Outcomes
from inference_server.scheduler.queue_positions import QueuePositions
from inference_server.scheduler.running_request import RunningRequest
from inference_server.scheduler.waiting_requests import WaitingRequests
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)


class Scheduler:
    """Serves requests in the fair queue's order, as far as their adapters allow.

    Args:
        engine: generates the images.
        adapters: binds the requests' adapters.
        device: the executor of the one thread that calls the engine; `drain` shuts it down.
        capacity: requests that may wait, the first of all not counted. A client with none waiting
            may exceed it, up to twice the capacity, so that one client that fills the queue does
            not keep others out.
        describe: returns the recipe that an image carries.
        max_batch: images that may share a step.
        log_prompts: the log may contain prompts.
    """

    def __init__(
        self,
        engine: ImageEngine,
        adapters: AdapterBinder,
        device: ThreadPoolExecutor,
        *,
        capacity: int,
        describe: Describe,
        max_batch: int = 1,
        log_prompts: bool = False,
    ) -> None:
        self.capacity = capacity
        self.metrics = ImageMetrics()
        self._adapters = adapters
        self._max_batch = max_batch
        self._loop = asyncio.get_running_loop()
        self._outcomes = Outcomes(self.metrics, log_prompts=log_prompts)
        self._batch = Batch(
            engine,
            max_batch,
            on_finish=self._finished_on_device,
            on_step=self._stepped_on_device,
        )
        self._device = DeviceLoop(self._batch, engine, device)
        self._jpeg = JpegThread(describe)
        self._waiting = WaitingRequests(
            adapters,
            on_load_started=self._load_started,
            on_load_failed=self._fail,
            on_load_ended=self._advance,
        )
        self._positions = QueuePositions(self._queue_positions)
        self._in_batch: dict[RunningRequest, asyncio.Future[Tensor]] = {}
        self._deliveries: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._mean_seconds = 0.0
        self._draining = False

    @property
    def queue_length(self) -> int:
        """Requests that wait or are being generated."""
        return len(self._waiting) + len(self._in_batch)

    def submit(
        self, request: ImageRequest, request_id: str = "", client: str = ""
    ) -> RunningRequest:
        """Accepts a request.

        Args:
            request: what is to be generated.
            request_id: the client's name for it; empty: a random one.
            client: identity that the fair queue counts the request under.

        Raises:
            RequestError: QUEUE_FULL or DRAINING, or its adapters cannot be used.
        """
        self._adapters.check(request.adapters)
        if self._draining:
            raise RequestError(
                Reason.DRAINING, "the server is shutting down; try another one or try again later"
            )
        limit = self.capacity if self._is_waiting(client) else 2 * self.capacity
        if self.queue_length > limit:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"the server's queue is full: {limit} requests are waiting; try again later",
                retry_after=max(1.0, self._mean_seconds),
            )
        running = RunningRequest(request, request_id, client)
        self._waiting.join(running)
        self._idle.clear()
        self._advance()
        return running

    def cancel(self, running: RunningRequest) -> None:
        """Ends a request whose client has gone; does nothing if it has ended already."""
        running.cancel()
        self._outcomes.cancelled(running)
        self._waiting.leave(running)
        if running in self._in_batch and self._batch.leave(running):
            self._finished(running, RequestCancelledError())
        self._advance()

    async def drain(self, grace: float) -> None:
        """Shuts down: accepts nothing more, and ends what is not done in `grace` seconds."""
        self._draining = True
        self._device.stop_resting()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        unfinished = [*self._waiting, *self._in_batch]
        self._waiting.clear()
        for running in unfinished:
            self._fail(
                running, RequestError(Reason.DRAINING, "the server shut down before the image")
            )
            self.cancel(running)
        await asyncio.gather(*self._deliveries, return_exceptions=True)
        await self._waiting.loads_ended()
        self._positions.stop()
        self._device.stop()
        self._jpeg.stop()

    # -- the queue --------------------------------------------------------------------------

    def _advance(self) -> None:
        # One more request than can share a step: the last one stands by.
        while len(self._in_batch) <= self._max_batch:
            if (bound := self._waiting.next_bound()) is None:
                break
            self._start(bound)
        self._device.wake()
        self._positions.changed()
        if self.queue_length == 0 and not self._deliveries and not self._waiting.is_loading:
            self._idle.set()

    def _start(self, bound: RunningRequest) -> None:
        pixels = self._in_batch[bound] = self._loop.create_future()
        self._batch.join(bound)
        task = asyncio.create_task(
            self._deliver(bound, pixels), name="deliver", context=bound.context()
        )
        self._deliveries.add(task)
        task.add_done_callback(self._delivered)

    def _load_started(self, running: RunningRequest) -> None:
        # The device has nothing else to do for this request: it encodes the prompt meanwhile.
        self._batch.prefetch_prompt(running.request.prompt)

    def _queue_positions(self) -> Iterator[tuple[int, RunningRequest]]:
        """Yields waiting requests with their position; 0 if the batch has a place for it."""
        standing_by = self._standing_by()
        started = len(self._in_batch) - len(standing_by)
        for index, running in enumerate([*standing_by, *self._waiting]):
            position = started + index
            yield (position if position >= self._max_batch else 0), running

    def _standing_by(self) -> list[RunningRequest]:
        return [running for running in self._in_batch if not running.started_at]

    def _is_waiting(self, client: str) -> bool:
        stands_by = any(running.client == client for running in self._standing_by())
        return stands_by or self._waiting.has_client(client)

    # -- results ----------------------------------------------------------------------------

    def _finished_on_device(self, running: RunningRequest, result: Tensor | Exception) -> None:
        self._loop.call_soon_threadsafe(self._finished, running, result)

    def _stepped_on_device(self, seconds: float, images: int) -> None:
        self._loop.call_soon_threadsafe(self.metrics.step, seconds, images)

    def _finished(self, running: RunningRequest, result: Tensor | Exception) -> None:
        pixels = self._in_batch.pop(running)
        self._adapters.release(running.binding)
        if isinstance(result, Exception):
            pixels.set_exception(result)
        else:
            pixels.set_result(result)
        self._advance()

    async def _deliver(self, running: RunningRequest, pixels: asyncio.Future[Tensor]) -> None:
        """Waits for the image, encodes it and sends it, or sends the error."""
        try:
            completed = await self._jpeg.complete(running, await pixels)
            timings = completed.timings
            self._add_to_mean(timings.total - timings.queued)
            self._outcomes.completed(running, timings, len(completed.image))
            running.post(completed)
        except RequestCancelledError:
            pass  # `cancel` has recorded the outcome
        except RequestError as error:
            log.warning("%s: %s", error.reason, error.message)
            self._fail(running, error)
        except Exception as error:
            log.exception("generating failed")
            self._fail(running, error)

    def _delivered(self, task: asyncio.Task[None]) -> None:
        self._deliveries.discard(task)
        self._advance()

    def _fail(self, running: RunningRequest, error: Exception) -> None:
        reason = error.reason if isinstance(error, RequestError) else Reason.INTERNAL
        self._outcomes.failed(running, reason)
        running.post(error)

    def _add_to_mean(self, seconds: float) -> None:
        # A moving average; a client that meets a full queue is asked to wait that long.
        before = self._mean_seconds or seconds
        self._mean_seconds = 0.8 * before + 0.2 * seconds
