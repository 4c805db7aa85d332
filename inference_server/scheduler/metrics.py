"""Metrics of images: outcomes, errors by reason, and the time of each stage.

Plain memory that the event loop writes; the metrics endpoint reads the same object.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from inference_server.histogram import Histogram
from wuliart_contract.status import Reason


class Stage(StrEnum):
    """The timed stages of an image; the fields of `events.Timings`."""

    QUEUED = "queued"
    TEXT_ENCODE = "text_encode"
    DENOISE = "denoise"
    DECODE = "decode"
    JPEG_ENCODE = "jpeg_encode"
    TOTAL = "total"


STAGE_SECONDS: Final = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0),
)
"""Upper bounds in seconds: from a JPEG's encode on a GPU to a long queue before a CPU."""

BATCHES: Final = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 16.0)
"""Upper bounds in images that share a step."""


class ImageMetrics:
    """All metrics of images; 0 at the server's start."""

    def __init__(self) -> None:
        self.completed = 0
        """Images whose JPEG was handed to the client."""
        self.cancelled = 0
        """Accepted requests whose client left before the end."""
        self.errors: dict[Reason, int] = dict.fromkeys(Reason, 0)
        """Requests that failed, before they were accepted or after."""
        self.stages = {stage: Histogram(STAGE_SECONDS) for stage in Stage}
        """Seconds of each stage of completed images."""
        self.steps = Histogram(STAGE_SECONDS)
        """Seconds of each step, however many images shared it."""
        self.batches = Histogram(BATCHES)
        """Images that shared a step."""

    def complete(self, seconds: Mapping[Stage, float]) -> None:
        """Counts a completed image and the seconds of its stages."""
        self.completed += 1
        for stage, took in seconds.items():
            self.stages[stage].observe(took)

    def cancel(self) -> None:
        """Counts a client that left."""
        self.cancelled += 1

    def fail(self, reason: Reason) -> None:
        """Counts a request that ended without an image."""
        self.errors[reason] += 1

    def step(self, seconds: float, images: int) -> None:
        """Counts a step and the images that shared it."""
        self.steps.observe(seconds)
        self.batches.observe(images)
