"""The events of one image, from its queue position to its JPEG, without gRPC's types."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.records import Skipped


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """One exact adapter version in use."""

    name: str
    weight: float
    content_hash: str
    generation: int
    """The slot write that holds this version."""
    autov3: str = ""
    """The hash by which other programs know the file; empty if it is not known."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds that each stage of one image took."""

    queued: float
    text_encode: float
    denoise: float
    decode: float
    jpeg_encode: float
    total: float


@dataclass(frozen=True, slots=True)
class Queued:
    """The request's place in the queue has changed."""

    position: int
    """Requests that are served first, the image being generated included."""


@dataclass(frozen=True, slots=True)
class Started:
    """The request has joined a batch; everything that decides the image is fixed."""

    seed: int
    steps: int
    adapters: tuple[AdapterUse, ...]
    prompt_tokens: int
    prompt_tokens_ignored: int
    skipped: tuple[Skipped, ...]
    """Adapters of the request that the image is generated without."""


@dataclass(frozen=True, slots=True)
class PreviewImage:
    """A small JPEG; sizes in pixels."""

    image: bytes
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class StepDone:
    """One denoising step has ended."""

    step: int
    """1 to `total_steps`."""
    total_steps: int
    elapsed: float
    """Seconds since the prompt was encoded."""
    ended_at: float
    """`time.perf_counter()` at the step's end; lets a benchmark measure how late the event is."""
    preview: PreviewImage | None


@dataclass(frozen=True, slots=True)
class Completed:
    """The image is done; the last event."""

    image: bytes
    """The JPEG."""
    seed: int
    timings: Timings


Event = Queued | Started | StepDone | Completed
