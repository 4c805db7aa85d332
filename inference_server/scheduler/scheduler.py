"""The queue, and who generates next.

Owns the order of jobs and the hand-over to the device thread; knows nothing of
gRPC, and of the engine and the adapters only the protocols in `interfaces`.

A job moves from `waiting` (a bounded queue) to the flight, its adapters pinned, where as many as
the batch allows share each step and one more stands by. One job at a time may have absent adapters
loaded; jobs behind it whose adapters are resident overtake it meanwhile, so that an adapter that
will not load costs nobody else the device. Everything but the device work happens on the event
loop, and every change ends in `_advance`, which moves whatever can move.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from inference_server.adapters.binding import Binding
from inference_server.engine.jpeg import encode_image
from inference_server.errors import RequestError
from inference_server.scheduler.batch import ClientGoneError, Flight, Passenger
from inference_server.scheduler.events import AdapterUse, Completed, ImageRequest, Timings
from inference_server.scheduler.fair_queue import Line
from inference_server.scheduler.interfaces import AdapterBinder, ImageEngine
from inference_server.scheduler.metrics import ImageMetrics
from inference_server.scheduler.outcomes import Ledger
from inference_server.scheduler.queue_positions import Positions
from inference_server.scheduler.request import Job
from wuliart_contract.status import Reason

log = logging.getLogger(__name__)

Describe = Callable[[ImageRequest, tuple[AdapterUse, ...]], str]
"""An image's recipe as text."""

REST_SECONDS = 2.0
"""Without an image, after which memory that only generating needs is given back."""

MAX_OVERTAKES = 8
"""Times a job may be overtaken: images that keep every slot pinned must not starve it."""


class Scheduler:
    """Serves jobs in the order they came, as far as their adapters allow.

    Args:
        engine: generates.
        adapters: binds.
        capacity: jobs that may wait, the first of all not counted. A client of whom none waits is
            let in beyond it, up to as many again: one who fills the queue keeps nobody else out.
        device: the one thread that calls the engine; shut down by `drain`.
        describe: the text that an image carries.
        batch: images that may share a step.
        log_prompts: whether the log may say what was asked for.
    """

    def __init__(
        self,
        engine: ImageEngine,
        adapters: AdapterBinder,
        capacity: int,
        device: ThreadPoolExecutor,
        describe: Describe,
        batch: int = 1,
        log_prompts: bool = False,
    ) -> None:
        self.capacity = capacity
        self.metrics = ImageMetrics()
        self._engine = engine
        self._adapters = adapters
        self._device = device
        self._describe = describe
        self._batch = batch
        self._loop = asyncio.get_running_loop()
        self._ledger = Ledger(self.metrics, log_prompts)
        self._flight = Flight(engine, batch, self._landed_on_device, self._stepped_on_device)
        self._flying: asyncio.Future[None] | None = None
        self._resting: asyncio.TimerHandle | None = None
        self._jpeg = ThreadPoolExecutor(1, thread_name_prefix="jpeg")
        self._waiting: Line[Job] = Line()
        self._positions = Positions(self._line)
        self._drawing: dict[Passenger, asyncio.Future[Any]] = {}
        self._loads: dict[Job, asyncio.Task[Binding]] = {}
        self._loaded: dict[Job, Binding] = {}
        self._draws: set[asyncio.Task[None]] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._mean_seconds = 0.0
        self._draining = False

    @property
    def queue_length(self) -> int:
        """Jobs waiting or being generated."""
        return len(self._waiting) + len(self._drawing)

    def submit(self, request: ImageRequest, request_id: str = "", client: str = "") -> Job:
        """Accepts a request.

        Args:
            request: what is to be generated.
            request_id: what the client calls it; empty: the job gets a random one.
            client: who asks; clients take turns.

        Raises:
            RequestError: QUEUE_FULL or DRAINING, or its adapters cannot be used.
        """
        self._adapters.check(request.adapters)
        if self._draining:
            raise RequestError(
                Reason.DRAINING, "the server is shutting down; try another one or try again later"
            )
        room = self.capacity if self._waits(client) else 2 * self.capacity
        if self.queue_length > room:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"{room} requests are waiting already, which is as many as this server queues",
                retry_after=max(1.0, self._mean_seconds),
            )
        job = Job(request, request_id, client)
        self._waiting.join(job, client)
        self._idle.clear()
        self._advance()
        return job

    def _waits(self, client: str) -> bool:
        standing_by = any(job.client == client for job in self._standing_by())
        return standing_by or self._waiting.waits(client)

    def cancel(self, job: Job) -> None:
        """The job's client has gone. Harmless if the job is done."""
        job.cancel()
        self._ledger.cancelled(job)
        if job in self._waiting:
            self._waiting.leave(job)
        if load := self._loads.get(job):
            load.cancel()
        if binding := self._loaded.pop(job, None):
            self._adapters.release(binding)
        boarded = next((p for p in self._drawing if p.job is job), None)
        if boarded is not None and self._flight.leave(boarded):
            self._landed(boarded, ClientGoneError())
        self._advance()

    async def drain(self, grace: float) -> None:
        """Accepts nothing more; waits up to `grace` seconds for accepted jobs, then ends them."""
        self._draining = True
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                await self._idle.wait()
        left = [*self._waiting, *(passenger.job for passenger in self._drawing)]
        self._waiting.clear()
        for job in left:
            self._fail(job, RequestError(Reason.DRAINING, "the server shut down before the image"))
            self.cancel(job)
        await asyncio.gather(*self._draws, *self._loads.values(), return_exceptions=True)
        if self._resting is not None:
            self._resting.cancel()
        self._positions.stop()
        self._device.shutdown()
        self._jpeg.shutdown()

    # -- who is next ------------------------------------------------------------------------

    def _advance(self) -> None:
        while len(self._drawing) <= self._batch and (ready := self._next_ready()) is not None:
            passenger = Passenger(*ready)
            landing = self._drawing[passenger] = self._loop.create_future()
            self._flight.board(passenger)
            task = asyncio.create_task(
                self._draw(passenger, landing), name="draw", context=passenger.job.context()
            )
            self._draws.add(task)
            task.add_done_callback(self._drawn)
        self._fly()
        self._positions.changed()
        if self.queue_length == 0 and not self._draws and not self._loads:
            self._idle.set()

    def _next_ready(self) -> tuple[Job, Binding] | None:
        """The first waiting job whose adapters are all there, bound; starts loading for another."""
        for index, job in enumerate(self._waiting):
            if job not in self._loads:
                binding = self._loaded.pop(job, None)
                binding = binding or job.context().run(
                    self._adapters.try_bind, job.request.adapters
                )
                if binding is not None:
                    for overtaken in list(self._waiting)[:index]:
                        overtaken.overtaken += 1
                    self._waiting.take(job)
                    return job, binding
                if not self._loads and not self._loaded:
                    self._load(job)
            if job.overtaken >= MAX_OVERTAKES:
                break
        return None

    def _load(self, job: Job) -> None:
        # The device has nothing else to do for it: its prompt is encoded meanwhile.
        self._flight.expect(job.request.prompt)
        task = asyncio.create_task(self._adapters.bind(job.request.adapters), context=job.context())
        self._loads[job] = task
        task.add_done_callback(lambda _: self._load_ended(job, task))

    def _load_ended(self, job: Job, task: asyncio.Task[Binding]) -> None:
        del self._loads[job]
        error = None if task.cancelled() else task.exception()
        if error is not None:
            if not isinstance(error, RequestError):
                about = {"request_id": job.id}
                log.error("binding adapters failed", exc_info=error, extra=about)
            if job in self._waiting:
                self._waiting.leave(job)
                self._fail(job, error if isinstance(error, Exception) else RuntimeError(str(error)))
        elif not task.cancelled():
            if job.cancelled:
                self._adapters.release(task.result())
            else:
                self._loaded[job] = task.result()
        self._advance()

    def _line(self) -> Iterator[tuple[int, Job]]:
        """Who waits, each with how many come first; 0 for whoever has a free seat."""
        standing_by = self._standing_by()
        flying = len(self._drawing) - len(standing_by)
        for index, job in enumerate([*standing_by, *self._waiting]):
            yield (flying + index if flying + index >= self._batch else 0), job

    def _standing_by(self) -> list[Job]:
        return [passenger.job for passenger in self._drawing if not passenger.began]

    # -- the image ------------------------------------------------------------------------

    def _fly(self) -> None:
        """Sees to it that the device thread is there for whoever boards."""
        if self._flying is not None or not self._flight.wanted:
            return
        if self._resting is not None:
            self._resting.cancel()
            self._resting = None
        self._flying = self._loop.run_in_executor(self._device, self._flight.fly)
        self._flying.add_done_callback(self._arrived)

    def _arrived(self, _: asyncio.Future[None]) -> None:
        self._flying = None
        self._fly()
        if self._flying is None and not self._draining:
            self._resting = self._loop.call_later(REST_SECONDS, self._rest)

    def _rest(self) -> None:
        self._resting = None
        self._loop.run_in_executor(self._device, self._engine.rest)

    def _landed_on_device(self, passenger: Passenger, outcome: Any) -> None:
        self._loop.call_soon_threadsafe(self._landed, passenger, outcome)

    def _stepped_on_device(self, seconds: float, images: int) -> None:
        self._loop.call_soon_threadsafe(self.metrics.step, seconds, images)

    def _landed(self, passenger: Passenger, outcome: Any) -> None:
        future = self._drawing.pop(passenger)
        self._adapters.release(passenger.binding)
        if isinstance(outcome, Exception):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)
        self._advance()

    async def _draw(self, passenger: Passenger, landing: asyncio.Future[Any]) -> None:
        """One image from its boarding to its JPEG."""
        job, uses = passenger.job, passenger.uses
        try:
            pixels = await landing
            began = time.perf_counter()
            text = self._describe(job.request, uses) if job.request.recipe else ""
            image = await self._loop.run_in_executor(self._jpeg, encode_image, pixels, text)
            ended = time.perf_counter()
            total, stages = ended - job.arrived_at, passenger.stages
            self._learn(total - stages["queued"])
            timings = Timings(**stages, jpeg_encode=ended - began, total=total)
            self._ledger.completed(job, timings, len(image))
            job.post(Completed(image, job.request.seed, timings))
        except ClientGoneError:
            pass  # whoever cancelled it has written that down
        except RequestError as error:
            log.warning("%s: %s", error.reason, error.message)
            self._fail(job, error)
        except Exception as error:
            log.exception("generating failed")
            self._fail(job, error)

    def _drawn(self, task: asyncio.Task[None]) -> None:
        self._draws.discard(task)
        self._advance()

    def _fail(self, job: Job, error: Exception) -> None:
        reason = error.reason if isinstance(error, RequestError) else Reason.INTERNAL
        self._ledger.failed(job, reason)
        job.post(error)

    def _learn(self, seconds: float) -> None:
        # A moving average; what a refused client is told to wait.
        before = self._mean_seconds or seconds
        self._mean_seconds = 0.8 * before + 0.2 * seconds
