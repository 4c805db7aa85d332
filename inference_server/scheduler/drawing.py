"""All device work of one picture, in order, on the device thread.

Owns the order of a picture's stages, their times, and the looks at cancellation between them. Knows
nothing of the queue.
"""

from __future__ import annotations

import time
from typing import Any

from inference_server.adapters.binding import Binding
from inference_server.engine.jpeg import encode_preview
from inference_server.scheduler.events import AdapterUse, PreviewImage, Started, StepDone
from inference_server.scheduler.interfaces import DrawingEngine
from inference_server.scheduler.job import Job


class CallerGoneError(Exception):
    """Raised between stages when the job was cancelled; nobody is left to read it."""


def draw(
    engine: DrawingEngine, job: Job, binding: Binding, uses: tuple[AdapterUse, ...]
) -> tuple[Any, dict[str, float]]:
    """The picture's pixels, and seconds per stage.

    Raises:
        CallerGoneError: the job was cancelled; nothing more was begun.
        RequestError: NON_FINITE.
    """
    request = job.request
    _go_on(job)
    began = time.perf_counter()
    prompt = engine.encode(request.prompt)
    encoded = time.perf_counter()
    job.post_from_thread(
        Started(request.seed, request.steps, uses, prompt.tokens, prompt.tokens_ignored)
    )
    drawing = engine.begin(prompt, request.seed, request.steps, binding.gated)
    for step in range(1, request.steps + 1):
        _go_on(job)
        engine.step(drawing)
        ended = time.perf_counter()
        preview = _preview(engine.preview(drawing)) if request.preview else None
        job.post_from_thread(StepDone(step, request.steps, ended - encoded, ended, preview))
    _go_on(job)
    denoised = time.perf_counter()
    pixels = engine.decode(drawing)
    return pixels, {
        "queued": began - job.arrived_at,
        "text_encode": encoded - began,
        "denoise": denoised - encoded,
        "decode": time.perf_counter() - denoised,
    }


def _go_on(job: Job) -> None:
    if job.cancelled:
        raise CallerGoneError


def _preview(pixels: Any) -> PreviewImage:
    height, width = pixels.shape[:2]
    return PreviewImage(encode_preview(pixels), width, height)


def uses_of(binding: Binding) -> tuple[AdapterUse, ...]:
    """The exact adapter versions of a picture."""
    return tuple(
        AdapterUse(w.name, w.weight, pin.content.entry.content_hash, pin.content.generation)
        for w, pin in zip(binding.wanted, binding.pins, strict=True)
    )
