"""The events of one image, and the reader that makes them from messages.

The reader checks the order that the contract promises.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration

from wuliart.v1 import image_generation_pb2 as pb
from wuliart_client._exceptions import ProtocolError
from wuliart_client._image import AdapterUse, GeneratedImage, SkippedAdapter, Timings


@dataclass(frozen=True, slots=True)
class Queued:
    """The request waits; `position` requests are served before it, the one being generated
    included.
    """

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """Generation begins; everything that determines the image is fixed.

    `prompt_tokens_ignored` tokens at the prompt's end are not read because it is too long.
    `skipped_adapters` are adapters of the request that the image is generated without; empty unless
    the server runs with --on-bad-adapter=skip.
    """

    seed: int
    steps: int
    adapters: tuple[AdapterUse, ...]
    prompt_tokens: int
    prompt_tokens_ignored: int
    skipped_adapters: tuple[SkippedAdapter, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """One denoising step has ended, counted from 1.

    `elapsed` is seconds since `Started`; `preview` a small JPEG, if the request asked for previews.
    """

    step: int
    total_steps: int
    elapsed: float
    preview: bytes | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Completed:
    """The image is done."""

    image: GeneratedImage


Event = Queued | Started | Step | Completed
"""Zero or more `Queued`, one `Started`, one `Step` for each step, one `Completed`."""


def _seconds(duration: Duration) -> float:
    return duration.ToNanoseconds() / 1e9


def _shortest(value: float) -> float:
    """The shortest decimal that is this 32-bit float: 0.8, not 0.800000011920929.

    Nine significant digits tell any two 32-bit floats apart (IEEE 754).
    """
    packed = struct.pack("f", value)
    for digits in range(1, 9):
        short = float(f"{value:.{digits}g}")
        if struct.pack("f", short) == packed:
            return short
    return value


def _read_adapter_use(use: pb.AdapterUse) -> AdapterUse:
    return AdapterUse(use.name, _shortest(use.weight), use.content_hash, use.generation)


def _read_timings(timings: pb.StageTimings) -> Timings:
    return Timings(
        queued=_seconds(timings.queued),
        text_encode=_seconds(timings.text_encode),
        denoise=_seconds(timings.denoise),
        decode=_seconds(timings.decode),
        jpeg_encode=_seconds(timings.jpeg_encode),
        total=_seconds(timings.total),
    )


class GenerationReader:
    """Reads the responses of one GenerateImage call, in order.

    Remembers what `started` said, because `completed` does not repeat it.
    """

    def __init__(self) -> None:
        self._started: Started | None = None
        self._last: Event | None = None

    def read(self, response: pb.GenerateImageResponse) -> Event:
        """The event in a response; ProtocolError if it comes out of order or is not known."""
        self._last = self._read(response)
        return self._last

    def _read(self, response: pb.GenerateImageResponse) -> Event:
        kind = response.WhichOneof("event")
        if kind is None:
            raise ProtocolError("the server sent an event unknown to this client: update it")
        if not isinstance(self._last, Completed):
            if self._started is None:
                if kind == "queued":
                    return Queued(response.queued.position)
                if kind == "started":
                    self._started = _read_started(response.started)
                    return self._started
            elif kind == "step":
                return _read_step(response.step)
            elif kind == "completed":
                return Completed(_read_image(response.completed, self._started))
        raise ProtocolError(f"the server sent {kind!r} out of order")

    def end(self) -> None:
        """The server ended the stream with OK; ProtocolError if no image came."""
        finished_image(self._last)


def finished_image(last: Event | None) -> GeneratedImage:
    """The image in the last event of a stream; ProtocolError if there is none."""
    if not isinstance(last, Completed):
        raise ProtocolError("the server ended the stream before the image was complete")
    return last.image


def _read_started(started: pb.StartedEvent) -> Started:
    return Started(
        seed=started.seed,
        steps=started.steps,
        adapters=tuple(_read_adapter_use(use) for use in started.adapters),
        prompt_tokens=started.prompt_tokens,
        prompt_tokens_ignored=started.prompt_tokens_ignored,
        skipped_adapters=tuple(
            SkippedAdapter(adapter.name, adapter.reason, adapter.message)
            for adapter in started.skipped_adapters
        ),
    )


def _read_step(step: pb.StepEvent) -> Step:
    preview = step.preview.image if step.HasField("preview") else None
    return Step(step.step, step.total_steps, _seconds(step.elapsed), preview)


def _read_image(completed: pb.CompletedEvent, started: Started) -> GeneratedImage:
    return GeneratedImage(
        data=completed.image,
        media_type=completed.media_type,
        width=completed.width,
        height=completed.height,
        seed=completed.seed,
        steps=started.steps,
        adapters=started.adapters,
        timings=_read_timings(completed.timings),
        skipped_adapters=started.skipped_adapters,
    )
