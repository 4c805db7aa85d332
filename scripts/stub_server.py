"""`wuliart-server` with a stub engine: it takes its time and computes nothing.

    python -m scripts.stub_server [options of wuliart-server]

An image takes `$STUB_SECONDS` (default 0.05) of the device, whatever its number of steps, and has
one colour, which depends on its seed. Everything but the engine is real.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from inference_server import assembly
from inference_server.__main__ import main
from inference_server.engine.latent_image import LatentImage
from inference_server.engine.loaded_model import LoadedModel
from inference_server.engine.prompt_cache import PromptEmbedding
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.rope import Rotation
from inference_server.scheduler.interfaces import ImageEngine

SECONDS = float(os.environ.get("STUB_SECONDS", "0.05"))

EDGE = 1024
PREVIEW_EDGE = 64


class StubImage(LatentImage):
    """An image in flight: its seed, and when its steps end."""

    def __init__(
        self,
        prompt: PromptEmbedding,
        seed: int,
        steps: int,
        *,
        adapters: Sequence[GatedAdapter],
    ) -> None:
        sigmas = [1 - n / steps for n in range(steps + 1)]
        super().__init__(
            prompt, sigmas=sigmas, modulation=(), adapters=adapters, latents=torch.empty(0)
        )
        self.seed = seed
        self.began = time.perf_counter()


class StubEngine:
    """Takes the place of `inference_server.engine.engine.Engine`; the model is only reported."""

    last_end = 0.0
    """End of the last step, by the monotonic clock, which is the same for all processes."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model

    def warm_up(self) -> None:
        """Does nothing: there is nothing to warm up."""

    def encode(self, prompt: str) -> PromptEmbedding:
        """Returns an embedding that counts the prompt's words and holds no states."""
        nothing = torch.empty(0)
        return PromptEmbedding(nothing, Rotation(nothing, nothing), len(prompt.split()), 0)

    def is_encoded(self, prompt: str) -> bool:
        """Returns True: no prompt waits for the device."""
        return True

    def begin(
        self, prompt: PromptEmbedding, seed: int, steps: int, *, adapters: Sequence[GatedAdapter]
    ) -> StubImage:
        """Starts the image's time."""
        return StubImage(prompt, seed, steps, adapters=adapters)

    def step(self, images: Sequence[LatentImage], prompts: Sequence[str] = ()) -> None:
        """Waits until the step's end.

        The end is counted from the image's beginning, because a real device does not wait for
        Python between steps: the service's own time must not be added.
        """
        for image in images:
            assert isinstance(image, StubImage)
            image.step += 1
            ends = image.began + SECONDS * image.step / image.total_steps
            time.sleep(max(0.0, ends - time.perf_counter()))
        StubEngine.last_end = time.monotonic()

    def check_finite(self, image: LatentImage) -> None:
        """Does nothing: there are no values to check."""

    def preview(self, image: LatentImage) -> Tensor:
        """Returns uint8 [64, 64, 3]."""
        return _filled(image, PREVIEW_EDGE)

    def decode(self, image: LatentImage) -> Tensor:
        """Returns uint8 [1024, 1024, 3]."""
        return _filled(image, EDGE)

    def rest(self) -> None:
        """Does nothing: no memory was taken."""


ENGINE: type[ImageEngine] = StubEngine
"""Assembly takes it by name, unseen by mypy; the annotation holds it to the protocol."""


def _filled(image: LatentImage, edge: int) -> Tensor:
    assert isinstance(image, StubImage)
    # Knuth's multiplicative hash: neighbouring seeds get distant colours.
    mixed = image.seed * 2654435761 % (1 << 32)
    colour = torch.tensor((mixed >> 24, mixed >> 16 & 255, mixed >> 8 & 255), dtype=torch.uint8)
    # A view: the encoder's thread expands it, not the device's.
    return colour.expand(edge, edge, 3)


if __name__ == "__main__":
    vars(assembly)["Engine"] = ENGINE
    main()
