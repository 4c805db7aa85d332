"""The queue and the one device thread.

Owns who is next, positions in the queue, and the order of a picture's stages; knows nothing of
gRPC, and of the engine and the adapters only the protocols in `interfaces`. While one picture is
drawn the next one's adapters are already being bound (loaded, if they must be), and the JPEG of the
previous one is encoded on a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any, TypeVar

from inference_server.adapters.store import Binding
from inference_server.engine.jpeg import encode_picture, encode_preview
from inference_server.errors import RequestError
from inference_server.scheduler.events import (
    AdapterUse,
    Completed,
    DrawRequest,
    PreviewImage,
    Started,
    StepDone,
    Timings,
)
from inference_server.scheduler.interfaces import AdapterBinder, DrawingEngine
from inference_server.scheduler.job import Job
from wuliart.contract.status import Reason

log = logging.getLogger(__name__)

T = TypeVar("T")


class CallerGoneError(Exception):
    """Raised between stages when the job was cancelled; nobody is left to read it."""


class Scheduler:
    """Serves jobs in the order they came.

    Args:
        engine: draws.
        adapters: binds.
        capacity: jobs that may wait, the one being drawn not counted.
        device: the one thread that calls the engine; shut down by `drain`.
    """

    def __init__(
        self,
        engine: DrawingEngine,
        adapters: AdapterBinder,
        capacity: int,
        device: ThreadPoolExecutor,
    ) -> None:
        self.capacity = capacity
        self._engine = engine
        self._adapters = adapters
        self._waiting: deque[Job] = deque()
        self._preparing: Job | None = None
        self._drawing: Job | None = None
        self._arrived = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._device_free = asyncio.Lock()
        self._device = device
        self._jpeg = ThreadPoolExecutor(1, thread_name_prefix="jpeg")
        self._draws: set[asyncio.Task[None]] = set()
        self._unwanted: set[asyncio.Task[Any]] = set()
        self._dispatcher: asyncio.Task[None] | None = None
        self._mean_seconds = 0.0
        self._draining = False

    def start(self) -> None:
        """Begins to serve; needs a running event loop."""
        self._dispatcher = asyncio.create_task(self._dispatch(), name="dispatcher")

    @property
    def queue_length(self) -> int:
        """Jobs waiting or being drawn."""
        return len(self._waiting) + (self._preparing is not None) + (self._drawing is not None)

    def submit(self, request: DrawRequest) -> Job:
        """Accepts a request.

        Raises:
            RequestError: QUEUE_FULL or DRAINING.
        """
        if self._draining:
            raise RequestError(
                Reason.DRAINING, "the server is shutting down; try another one or try again later"
            )
        # The first of all does not wait, whether its drawing has begun or not.
        waiting = max(0, self.queue_length - 1)
        if self.queue_length > self.capacity:
            raise RequestError(
                Reason.QUEUE_FULL,
                f"{waiting} requests are waiting already, which is as many as this server queues",
                retry_after=max(1.0, self._mean_seconds),
            )
        job = Job(request)
        self._waiting.append(job)
        self._idle.clear()
        if self.queue_length > 1:
            job.tell_position(self.queue_length - 1)
        self._arrived.set()
        return job

    def cancel(self, job: Job) -> None:
        """The job's caller has gone. Harmless if the job is done."""
        job.cancel()
        if job in self._waiting:
            self._waiting.remove(job)
            self._announce_positions()
            self._note_idle()

    async def drain(self, grace: float) -> None:
        """Accepts nothing more; waits up to `grace` seconds for accepted jobs, then ends them."""
        self._draining = True
        with suppress(TimeoutError):
            await asyncio.wait_for(self._idle.wait(), grace)
        if self._dispatcher is not None:
            self._dispatcher.cancel()
        for job in (*self._waiting, self._preparing, self._drawing):
            if job is not None:
                job.post(RequestError(Reason.DRAINING, "the server shut down before the picture"))
                job.cancel()
        self._waiting.clear()
        self._preparing = None
        if self._dispatcher is not None:
            await asyncio.wait([self._dispatcher])
        await asyncio.gather(*self._draws, *self._unwanted, return_exceptions=True)
        self._device.shutdown()
        self._jpeg.shutdown()

    # -- inside -----------------------------------------------------------------------------

    async def _dispatch(self) -> None:
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            job = self._preparing = self._waiting.popleft()
            binding = await self._bind(job)
            if binding is None:
                self._skip_preparing()
                continue
            device = None
            try:
                device = await self._unless_gone(
                    job, self._device_free.acquire(), self._give_back_device
                )
            finally:
                if device is None:
                    self._adapters.release(binding)
            if device is None:
                self._skip_preparing()
                continue
            self._preparing, self._drawing = None, job
            task = asyncio.create_task(self._draw(job, binding), name="draw")
            self._draws.add(task)
            task.add_done_callback(self._drawn)

    async def _bind(self, job: Job) -> Binding | None:
        binding = self._adapters.bind(job.request.adapters)
        try:
            return await self._unless_gone(job, binding, self._adapters.release)
        except RequestError as error:
            job.post(error)
        except Exception as error:
            log.exception("binding adapters failed")
            job.post(error)
        return None

    async def _unless_gone(
        self, job: Job, work: Coroutine[Any, Any, T], undo: Callable[[T], None]
    ) -> T | None:
        """The work's result, or None as soon as the job's caller has gone.

        A caller that leaves must not keep the next one waiting. If the work ends all the same,
        `undo` gets its result. Raises what the work raises while the caller is there.
        """

        def ended(task: asyncio.Task[T]) -> None:
            self._unwanted.discard(task)
            if not task.cancelled() and task.exception() is None:
                undo(task.result())

        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(job.gone())
        unwanted = False
        try:
            await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
            unwanted = job.cancelled
            return None if unwanted else task.result()
        except asyncio.CancelledError:
            unwanted = True
            raise
        finally:
            gone.cancel()
            if unwanted:
                task.cancel()
                self._unwanted.add(task)
                task.add_done_callback(ended)

    def _give_back_device(self, _acquired: bool) -> None:
        self._device_free.release()

    def _skip_preparing(self) -> None:
        self._preparing = None
        self._announce_positions()
        self._note_idle()

    async def _draw(self, job: Job, binding: Binding) -> None:
        loop = asyncio.get_running_loop()
        try:
            try:
                pixels, stages = await loop.run_in_executor(
                    self._device, self._on_device, job, binding
                )
            finally:
                self._adapters.release(binding)
                self._drawing = None
                self._device_free.release()
                self._announce_positions()
            began = time.perf_counter()
            image = await loop.run_in_executor(self._jpeg, encode_picture, pixels)
            ended = time.perf_counter()
            total = ended - job.arrived_at
            self._learn(total - stages["queued"])
            timings = Timings(**stages, jpeg_encode=ended - began, total=total)
            job.post(Completed(image, job.request.seed, timings))
        except CallerGoneError:
            log.info("cancelled by its caller")
        except RequestError as error:
            log.warning("%s: %s", error.reason, error.message)
            job.post(error)
        except Exception as error:
            log.exception("drawing failed")
            job.post(error)

    def _drawn(self, task: asyncio.Task[None]) -> None:
        self._draws.discard(task)
        self._note_idle()

    def _on_device(self, job: Job, binding: Binding) -> tuple[Any, dict[str, float]]:
        """All device work of one picture, on the device thread; pixels and seconds per stage."""
        request, engine = job.request, self._engine

        def go_on() -> None:
            if job.cancelled:
                raise CallerGoneError

        go_on()
        began = time.perf_counter()
        prompt = engine.encode(request.prompt)
        encoded = time.perf_counter()
        job.post_from_thread(
            Started(
                request.seed, request.steps, _uses(binding), prompt.tokens, prompt.tokens_ignored
            )
        )
        drawing = engine.begin(prompt, request.seed, request.steps, binding.gated)
        for step in range(1, request.steps + 1):
            go_on()
            engine.step(drawing)
            ended = time.perf_counter()
            preview = _preview(engine.preview(drawing)) if request.preview else None
            job.post_from_thread(StepDone(step, request.steps, ended - encoded, ended, preview))
        go_on()
        denoised = time.perf_counter()
        pixels = engine.decode(drawing)
        return pixels, {
            "queued": began - job.arrived_at,
            "text_encode": encoded - began,
            "denoise": denoised - encoded,
            "decode": time.perf_counter() - denoised,
        }

    def _learn(self, seconds: float) -> None:
        # A moving average; what a refused caller is told to wait.
        before = self._mean_seconds or seconds
        self._mean_seconds = 0.8 * before + 0.2 * seconds

    def _announce_positions(self) -> None:
        ahead = (self._drawing is not None) + (self._preparing is not None)
        if self._preparing is not None and self._drawing is not None:
            self._preparing.tell_position(1)
        for position, job in enumerate(self._waiting, start=ahead):
            if position:
                job.tell_position(position)

    def _note_idle(self) -> None:
        if self.queue_length == 0 and not self._draws:
            self._idle.set()


def _preview(pixels: Any) -> PreviewImage:
    height, width = pixels.shape[:2]
    return PreviewImage(encode_preview(pixels), width, height)


def _uses(binding: Binding) -> tuple[AdapterUse, ...]:
    return tuple(
        AdapterUse(w.name, w.weight, pin.content.entry.content_hash, pin.content.generation)
        for w, pin in zip(binding.wanted, binding.pins, strict=True)
    )
