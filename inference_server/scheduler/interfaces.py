"""The engine and the adapters as the scheduler calls them; tests and demos put in their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterWeight
from inference_server.engine.latent_image import LatentImage
from inference_server.engine.prompt_cache import PromptEmbedding
from inference_server.model.kernels.low_rank import GatedAdapter


class ImageEngine(Protocol):
    """`engine.Engine`, called from the device thread only."""

    def encode(self, prompt: str) -> PromptEmbedding:
        """Returns the prompt's embedding."""

    def is_encoded(self, prompt: str) -> bool:
        """Returns True if `encode` would find the prompt in its cache."""

    def begin(
        self, prompt: PromptEmbedding, seed: int, steps: int, *, adapters: Sequence[GatedAdapter]
    ) -> LatentImage:
        """Returns an image at its initial noise."""

    def step(self, images: Sequence[LatentImage], prompts: Sequence[str]) -> None:
        """Runs the next step of every image, and encodes `prompts` beside it."""

    def check_finite(self, image: LatentImage) -> None:
        """Waits for the image's last step; raises RequestError NON_FINITE if it broke the image."""

    def preview(self, image: LatentImage) -> Tensor:
        """Returns [height, width, 3] uint8 on the CPU."""

    def decode(self, image: LatentImage) -> Tensor:
        """Returns [1024, 1024, 3] uint8, where `encode_image` takes it."""

    def rest(self) -> None:
        """Frees memory that only generating needs."""


class AdapterBinder(Protocol):
    """`adapters.Binder`, called from the event loop only."""

    def check(self, adapters: Sequence[AdapterWeight]) -> None:
        """Raises RequestError if it is certain already that the adapters cannot be bound."""

    def try_bind(self, adapters: Sequence[AdapterWeight]) -> Binding | None:
        """Pins exact versions if all adapters are resident; otherwise returns None."""

    async def bind(self, adapters: Sequence[AdapterWeight]) -> Binding:
        """Has absent adapters loaded, then pins; raises RequestError if one does not load."""

    def release(self, binding: Binding) -> None:
        """Releases the pins."""
