"""Runs the batch on the device thread while it has work, and lets the engine rest afterwards."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

from inference_server.scheduler.batch import Batch
from inference_server.scheduler.interfaces import ImageEngine

REST_SECONDS = 2.0
"""Time without an image after which the engine frees memory that only generating needs."""


class DeviceLoop:
    """Keeps the device thread in `Batch.run`. On the event loop only.

    Args:
        batch: the work.
        engine: rests when there is none.
        device: the executor of the device thread; shut down by `stop`.
    """

    def __init__(self, batch: Batch, engine: ImageEngine, device: ThreadPoolExecutor) -> None:
        self._batch = batch
        self._engine = engine
        self._device = device
        self._loop = asyncio.get_running_loop()
        self._run: asyncio.Future[None] | None = None
        self._rest_timer: asyncio.TimerHandle | None = None
        self._stopping = False

    def wake(self) -> None:
        """Starts `Batch.run` if the batch has work and is not running."""
        if self._run is not None or not self._batch.has_work:
            return
        self._cancel_rest()
        self._run = self._loop.run_in_executor(self._device, self._batch.run)
        self._run.add_done_callback(self._run_ended)

    def stop_resting(self) -> None:
        """Schedules no further rest: the server is shutting down."""
        self._stopping = True

    def stop(self) -> None:
        """Waits for the device thread to finish what it has, and ends it."""
        self._stopping = True
        self._cancel_rest()
        self._device.shutdown()

    def _run_ended(self, _: asyncio.Future[None]) -> None:
        self._run = None
        # A request may have joined after `Batch.run` looked for the last time.
        self.wake()
        if self._run is None and not self._stopping:
            self._rest_timer = self._loop.call_later(REST_SECONDS, self._rest)

    def _rest(self) -> None:
        self._rest_timer = None
        self._loop.run_in_executor(self._device, self._engine.rest)

    def _cancel_rest(self) -> None:
        if self._rest_timer is not None:
            self._rest_timer.cancel()
            self._rest_timer = None
