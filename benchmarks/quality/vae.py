"""Measures the VAE alone: the stock encoder and the engine's decoder, on scenes held out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality.image_generator import ImageGenerator
from benchmarks.quality.measures import psnr
from benchmarks.quality.store import StoreEntry
from benchmarks.quality.truth import Truth
from training.data.prose.description import Description
from training.grounds import HELD_OUT

COUNT = 24


class RoundTrip:
    """Encodes images with the stock encoder, and decodes them with the engine's decoder.

    Args:
        generator: Holds the checkpoint and the engine.
    """

    def __init__(self, generator: ImageGenerator) -> None:
        from diffusers import AutoencoderKLQwenImage

        self._device, self._decoder = generator.device, generator.base.model.vae
        path = generator.checkpoint / "vae"
        vae: Any = AutoencoderKLQwenImage.from_pretrained(path, torch_dtype=torch.float32)
        self._vae = vae.to(self._device)

    @torch.inference_mode()
    def __call__(self, image: Tensor) -> Tensor:
        """Returns the reconstruction of [3, 1024, 1024] in 0..1, on the CPU."""
        frame = (image * 2 - 1)[None, :, None].to(self._device)
        mode = self._vae.encode(frame).latent_dist.mode()[:, :, 0]
        mean, std = (
            torch.tensor(values, device=self._device).view(1, -1, 1, 1)
            for values in (self._decoder.config.mean, self._decoder.config.std)
        )
        pixels = self._decoder.decode((mode - mean) / std)[0]
        return ((pixels.float() + 1) / 2).clamp(0, 1).cpu()


def measure(
    generator: ImageGenerator,
    truth: Truth,
    shown: Sequence[Description],
    advance: Callable[[], None],
) -> list[float]:
    """Returns the PSNR in dB of each image, on a variant of its scene that no training sees."""
    key = generator.key("base")
    round_trip = None
    values: list[float] = []
    for number, description in enumerate(shown):
        name = f"reconstruction {number} {truth.key}"
        entry = generator.store.read(key, name)
        if entry is None:
            round_trip = round_trip or RoundTrip(generator)
            image = truth.full(description, HELD_OUT[number % len(HELD_OUT)])
            entry = StoreEntry({"psnr": psnr(round_trip(image).to(image.device), image)})
            generator.store.write(key, name, entry)
        values.append(entry.facts["psnr"])
        advance()
    return values
