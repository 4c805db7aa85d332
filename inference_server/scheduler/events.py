"""What an image's client is told while it is generated. Plain values; knows nothing of gRPC."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.records import AdapterWeight, Skipped


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A validated request."""

    prompt: str
    seed: int
    steps: int
    adapters: tuple[AdapterWeight, ...] = ()
    preview: bool = False
    recipe: bool = True
    """Whether the image carries what it was made from."""


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """One exact adapter version in use."""

    name: str
    weight: float
    content_hash: str
    generation: int
    autov3: str = ""
    """As in `FileEntry`."""


@dataclass(frozen=True, slots=True)
class Timings:
    """Seconds per stage of one image."""

    queued: float
    text_encode: float
    denoise: float
    decode: float
    jpeg_encode: float
    total: float


@dataclass(frozen=True, slots=True)
class Queued:
    """How many requests are served first, the one being generated included."""

    position: int


@dataclass(frozen=True, slots=True)
class Started:
    """Everything that decides the image is fixed."""

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
    total_steps: int
    elapsed: float
    """Seconds since generating began."""
    ended_at: float
    """`time.perf_counter()` at the step's end; lets a benchmark see how late the event is."""
    preview: PreviewImage | None


@dataclass(frozen=True, slots=True)
class Completed:
    """The image."""

    image: bytes
    seed: int
    timings: Timings


Event = Queued | Started | StepDone | Completed
