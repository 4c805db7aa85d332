"""One image to generate: a validated request without gRPC's types."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.records import AdapterWeight


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """A validated request for one image."""

    prompt: str
    seed: int
    """0 to 2**64 - 1."""
    steps: int
    adapters: tuple[AdapterWeight, ...] = ()
    preview: bool = False
    """Every step's event carries a preview."""
    recipe: bool = True
    """The JPEG's EXIF carries the prompt, seed, steps and adapters."""
