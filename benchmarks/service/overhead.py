"""Overhead of the service over the engine: per image, per step event, per cancellation."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.report import Figure, percentile
from benchmarks.service.live_server import live_server
from inference_server.engine.latent_image import LatentImage
from inference_server.scheduler import events
from inference_server.service import image_generation
from inference_server.service.backend import Backend
from wuliart_client import Client, Completed, Step

IMAGES = 25
CANCELS = 20


def measure() -> list[Figure]:
    """Generates through gRPC, and compares with the clock of the device thread."""
    with (
        tempfile.TemporaryDirectory(prefix="wuliart-bench-") as folder,
        live_server(Path(folder)) as (address, backend),
        Client(address) as client,
    ):
        client.generate_image("warm-up")
        return [*_images(client), *_cancel(client, backend)]


def _images(client: Client) -> list[Figure]:
    ended: list[float] = []
    convert = image_generation.message_of

    def spy(event: events.Event) -> object:
        if isinstance(event, events.StepDone):
            ended.append(event.ended_at)
        return convert(event)

    image_generation.message_of = spy  # type: ignore[assignment]
    overheads, lags = [], []
    try:
        for n in range(IMAGES):
            ended.clear()
            received: list[float] = []
            began = time.perf_counter()
            for event in client.generate(f"image {n}", seed=n, preview=n % 2 == 0):
                if isinstance(event, Step):
                    received.append(time.perf_counter())
                elif isinstance(event, Completed):
                    t = event.image.timings
                    engine = t.text_encode + t.denoise + t.decode + t.jpeg_encode
                    overheads.append(time.perf_counter() - began - engine)
            lags += [got - end for got, end in zip(received, ended, strict=True)]
    finally:
        image_generation.message_of = convert
    return [
        Figure(
            "gRPC over the engine, per image",
            1000 * statistics.median(overheads),
            "ms",
            5,
            note=f"client's wall time less the engine's stages, median of {IMAGES}",
        ),
        Figure(
            "step event after the step's end, p99",
            1000 * percentile(lags, 0.99),
            "ms",
            10,
            note=f"until the client has it, {len(lags)} steps, half with previews",
        ),
    ]


def _cancel(client: Client, backend: Backend) -> list[Figure]:
    spans: list[tuple[float, float]] = []
    run = backend.engine.step

    def spy(images: Sequence[LatentImage], prompts: Sequence[str] = ()) -> None:
        began = time.perf_counter()
        run(images, prompts)
        spans.append((began, time.perf_counter()))

    backend.engine.step = spy  # type: ignore[method-assign]
    late, waits = 0, []
    try:
        for n in range(CANCELS):
            spans.clear()
            stream = client.generate("cancelled", seed=n)
            for event in stream:
                if isinstance(event, Step):
                    break
            cancelled = time.perf_counter()
            stream.cancel()
            while backend.scheduler.queue_length:
                time.sleep(0.001)
            free = time.perf_counter()
            began, ended = spans[-1]
            late += began > cancelled + 0.005
            waits.append((free - cancelled) / (ended - began))
    finally:
        backend.engine.step = run  # type: ignore[method-assign]
    return [
        Figure(
            "device free after a cancel, worst",
            max(waits),
            "steps",
            1.1,
            note=f"{CANCELS} cancels just after step 1, against the step they interrupted; 0.1 for "
            "noticing it",
        ),
        Figure("steps begun after a cancel", late, "", 0),
    ]
