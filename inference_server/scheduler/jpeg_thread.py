"""Encodes finished images on a thread of its own, so that the device starts on the next one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from torch import Tensor

from inference_server.engine.jpeg import encode_image
from inference_server.scheduler.events import AdapterUse, Completed, Timings
from inference_server.scheduler.image_request import ImageRequest
from inference_server.scheduler.running_request import RunningRequest

Describe = Callable[[ImageRequest, tuple[AdapterUse, ...]], str]
"""Returns an image's recipe as text."""


class JpegThread:
    """Turns decoded pixels into the request's last event.

    Args:
        describe: returns the text that the JPEG carries.
    """

    def __init__(self, describe: Describe) -> None:
        self._describe = describe
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="jpeg")

    async def complete(self, running: RunningRequest, pixels: Tensor) -> Completed:
        """Encodes the image.

        Args:
            running: a request whose decode is done.
            pixels: [1024, 1024, 3] uint8.

        Returns:
            The last event, with the time of every stage.
        """
        began = time.perf_counter()
        request = running.request
        text = self._describe(request, running.adapter_uses) if request.recipe else ""
        loop = asyncio.get_running_loop()
        image = await loop.run_in_executor(self._executor, encode_image, pixels, text)
        ended = time.perf_counter()
        timings = Timings(
            **running.stage_seconds, jpeg_encode=ended - began, total=ended - running.arrived_at
        )
        return Completed(image, request.seed, timings)

    def stop(self) -> None:
        """Waits for the encode in progress and ends the thread."""
        self._executor.shutdown()
