"""The images that are being generated: all device work, one step at a time, on the device thread.

Images share a step. A new one joins at the next step, and a finished, failed or cancelled one
leaves without stopping the others. Requests that join a full batch stand by and get the next free
place without a round trip to the event loop, so the device never waits for it.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from torch import Tensor

from inference_server.engine.jpeg import encode_preview
from inference_server.engine.latent_image import LatentImage
from inference_server.scheduler.events import PreviewImage, Started, StepDone
from inference_server.scheduler.interfaces import ImageEngine
from inference_server.scheduler.running_request import RunningRequest

log = logging.getLogger(__name__)


class RequestCancelledError(Exception):
    """The result of a cancelled request; never sent, because its client has gone."""


FinishCallback = Callable[[RunningRequest, Tensor | Exception], None]
"""Called once for each request, on the device thread: its pixels, or the error that ended it."""

StepCallback = Callable[[float, int], None]
"""Called after each step, on the device thread: its seconds, and how many images shared it."""


class Batch:
    """Requests that share steps, and those that stand by to join them.

    Args:
        engine: called by `run` only.
        capacity: images that may share a step.
        on_finish: see `FinishCallback`.
        on_step: see `StepCallback`.
    """

    def __init__(
        self,
        engine: ImageEngine,
        capacity: int,
        *,
        on_finish: FinishCallback,
        on_step: StepCallback,
    ) -> None:
        self._engine = engine
        self._capacity = capacity
        self._on_finish = on_finish
        self._on_step = on_step
        self._lock = threading.Lock()
        self._joining: list[RunningRequest] = []
        """Guarded by the lock; everything below belongs to the device thread."""
        self._prefetched: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._images: dict[RunningRequest, LatentImage] = {}

    @property
    def has_work(self) -> bool:
        """True if `run` has something to do."""
        return bool(self._joining) or not self._prefetched.empty()

    def prefetch_prompt(self, prompt: str) -> None:
        """Asks for a prompt to be encoded ahead of its request; from any thread."""
        self._prefetched.put(prompt)

    def join(self, running: RunningRequest) -> None:
        """Adds a bound request, which starts at the next step with a free place; from any thread.

        Does not start `run`.
        """
        with self._lock:
            self._joining.append(running)

    def leave(self, running: RunningRequest) -> bool:
        """Removes a request that still stands by; from any thread.

        Returns:
            False if it has started or finished: then `run` ends it and calls `on_finish`.
        """
        with self._lock:
            if running not in self._joining:
                return False
            self._joining.remove(running)
            return True

    def run(self) -> None:
        """Steps until no request is left, on the device thread. Raises nothing."""
        while True:
            self._start_joining()
            if self._images:
                self._step()
            elif not self._encode_ahead():
                return

    def _encode_ahead(self) -> bool:
        """Encodes prompts ahead while no image is generated; returns False if there are none."""
        prompts = self._prompts_to_encode()
        for prompt in prompts:
            try:
                self._engine.encode(prompt)
            except Exception:
                # The request retries the encode and reports the error itself.
                log.exception("encoding a prompt ahead failed")
        return bool(prompts)

    def _start_joining(self) -> None:
        while (running := self._next()) is not None:
            try:
                self._images[running] = self._start(running)
            except Exception as error:
                self._on_finish(running, error)

    def _next(self) -> RunningRequest | None:
        """Takes the first request that can start, or was cancelled."""
        with self._lock:
            for running in self._joining:
                prompt = running.request.prompt
                is_ready = not self._images or self._engine.is_encoded(prompt)
                has_place = len(self._images) < self._capacity
                if running.cancelled or (is_ready and has_place):
                    self._joining.remove(running)
                    return running
                if not is_ready:
                    # The next step encodes it, so that the running images need not stop for it.
                    self.prefetch_prompt(prompt)
        return None

    def _start(self, running: RunningRequest) -> LatentImage:
        request, binding = running.request, running.binding
        _check_cancelled(running)
        running.started_at = time.perf_counter()
        prompt = self._engine.encode(request.prompt)
        running.encoded_at = time.perf_counter()
        running.post_from_thread(
            Started(
                seed=request.seed,
                steps=request.steps,
                adapters=running.adapter_uses,
                prompt_tokens=prompt.tokens,
                prompt_tokens_ignored=prompt.tokens_ignored,
                skipped=binding.skipped,
            )
        )
        return self._engine.begin(prompt, request.seed, request.steps, adapters=binding.gated)

    def _step(self) -> None:
        """Runs one step of every image whose request is not cancelled."""
        for running in list(self._images):
            if running.cancelled:
                self._finish(running, RequestCancelledError())
        shared = list(self._images)
        if not shared:
            return
        began = time.perf_counter()
        try:
            self._engine.step(list(self._images.values()), self._prompts_to_encode())
        except Exception as error:
            for running in shared:
                self._finish(running, error)
            return
        # A GPU has only queued the step so far; the checks wait for its end.
        finite = [running for running in shared if self._is_finite(running)]
        ended = time.perf_counter()
        self._on_step(ended - began, len(shared))
        for running in finite:
            try:
                self._after_step(running, ended)
            except Exception as error:
                self._finish(running, error)

    def _is_finite(self, running: RunningRequest) -> bool:
        """Checks the latents after a step; finishes an image that fails the check."""
        try:
            self._engine.check_finite(self._images[running])
        except Exception as error:
            self._finish(running, error)
            return False
        return True

    def _prompts_to_encode(self) -> list[str]:
        """Takes the prompts to prefetch, each once, without those that are cached."""
        prompts: dict[str, None] = {}
        while not self._prefetched.empty():
            prompts[self._prefetched.get()] = None
        return [prompt for prompt in prompts if not self._engine.is_encoded(prompt)]

    def _after_step(self, running: RunningRequest, ended: float) -> None:
        request, image = running.request, self._images[running]
        running.steps_done += 1
        running.post_from_thread(
            StepDone(
                step=running.steps_done,
                total_steps=request.steps,
                elapsed=ended - running.encoded_at,
                ended_at=ended,
                preview=self._preview(image) if request.preview else None,
            )
        )
        if running.steps_done < request.steps:
            return
        _check_cancelled(running)
        denoised = time.perf_counter()
        pixels = self._engine.decode(image)
        running.stage_seconds = {
            "queued": running.started_at - running.arrived_at,
            "text_encode": running.encoded_at - running.started_at,
            "denoise": denoised - running.encoded_at,
            "decode": time.perf_counter() - denoised,
        }
        self._finish(running, pixels)

    def _preview(self, image: LatentImage) -> PreviewImage:
        pixels = self._engine.preview(image)
        height, width = pixels.shape[:2]
        return PreviewImage(encode_preview(pixels), width, height)

    def _finish(self, running: RunningRequest, result: Tensor | Exception) -> None:
        # Frees the image's tensors now, not when the event loop is done with the request.
        del self._images[running]
        self._on_finish(running, result)


def _check_cancelled(running: RunningRequest) -> None:
    if running.cancelled:
        raise RequestCancelledError
