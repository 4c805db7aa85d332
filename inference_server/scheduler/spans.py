"""The trace spans of an image, written at its end from times that the scheduler has anyway.

Without OpenTelemetry's SDK this does nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping

from opentelemetry import trace
from opentelemetry.trace import SpanKind, StatusCode

from inference_server.scheduler.metrics import Stage
from inference_server.scheduler.running_request import RunningRequest

CONSECUTIVE = (Stage.QUEUED, Stage.TEXT_ENCODE, Stage.DENOISE, Stage.DECODE)
"""Each begins where the one before it ends. The JPEG's encode ends with the image."""


def write(
    running: RunningRequest, outcome: str, seconds: Mapping[Stage, float], *, error: str = ""
) -> None:
    """Writes one span for the image, in its client's trace, and one for each stage in `seconds`."""
    running.context().run(_write, running, outcome, seconds, error)


def _write(
    running: RunningRequest, outcome: str, seconds: Mapping[Stage, float], error: str
) -> None:
    tracer = trace.get_tracer("wuliart.server")
    end = time.time_ns()
    begin = end - _nanoseconds(seconds[Stage.TOTAL])
    image = tracer.start_span(
        "image",
        kind=SpanKind.SERVER,
        start_time=begin,
        attributes={
            "request_id": running.id,
            "outcome": outcome,
            "steps": running.request.steps,
            "adapters": [adapter.name for adapter in running.request.adapters],
        },
    )
    if error:
        image.set_status(StatusCode.ERROR, error)
    inside = trace.set_span_in_context(image)
    for stage in CONSECUTIVE:
        if (took := seconds.get(stage)) is not None:
            until = begin + _nanoseconds(took)
            tracer.start_span(stage, inside, start_time=begin).end(until)
            begin = until
    if (took := seconds.get(Stage.JPEG_ENCODE)) is not None:
        began = end - _nanoseconds(took)
        tracer.start_span(Stage.JPEG_ENCODE, inside, start_time=began).end(end)
    image.end(end)


def _nanoseconds(seconds: float) -> int:
    return round(seconds * 1e9)
