"""Measures the VAE alone: the stock encoder and the engine's decoder, on renderings."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality.image_generator import ImageGenerator
from benchmarks.quality.measures import psnr
from benchmarks.quality.store import StoreEntry
from training.data.captions import COLOURS
from training.data.concepts import Concept
from training.data.images import collect_svgs, svg_name
from training.data.render import compose, render
from training.styles import PLAIN
from wuliart_contract.limits import IMAGE_SIZE

COUNT = 24


def measure(
    generator: ImageGenerator, concepts: Sequence[Concept], cache: Path, advance: Callable[[], None]
) -> list[float]:
    """Returns the PSNR in dB of COUNT renderings, each on a random named background.

    They are the first by code, which the VAE's training holds out.
    """
    rng = random.Random(0)
    key = generator.key("base")
    vae = None
    values: list[float] = []
    for concept in sorted(concepts, key=lambda c: c.code)[:COUNT]:
        ground = rng.choice(COLOURS).rgb
        name = f"reconstruction {concept.code} {ground}"
        entry = generator.store.read(key, name)
        if entry is None:
            vae = vae or _stock_vae(generator)
            truth = _rendering(concept, ground, concepts, cache)
            entry = StoreEntry({"psnr": psnr(_round_trip(vae, generator, truth), truth)})
            generator.store.write(key, name, entry)
        values.append(entry.facts["psnr"])
        advance()
    return values


def _rendering(
    concept: Concept, ground: tuple[int, int, int], concepts: Sequence[Concept], cache: Path
) -> Tensor:
    """Returns a concept on a background, [3, 1024, 1024] in 0..1."""
    with zipfile.ZipFile(collect_svgs(list(concepts), cache)) as svgs:
        svg = svgs.read(svg_name(PLAIN.sets[0], concept.code)).decode()
    rgb = torch.from_numpy(compose(render(svg, IMAGE_SIZE), ground))
    return rgb.permute(2, 0, 1).float() / 255


def _stock_vae(generator: ImageGenerator) -> Any:
    from diffusers import AutoencoderKLQwenImage

    vae = AutoencoderKLQwenImage.from_pretrained(
        generator.checkpoint / "vae", torch_dtype=torch.float32
    )
    return vae.to(generator.device)


@torch.inference_mode()
def _round_trip(vae: Any, generator: ImageGenerator, image: Tensor) -> Tensor:
    """Encodes [3, 1024, 1024] in 0..1 to normalised latents and decodes them."""
    decoder = generator.base.model.vae
    frame = (image * 2 - 1)[None, :, None].to(generator.device)
    mode = vae.encode(frame).latent_dist.mode()[:, :, 0]
    mean, std = (
        torch.tensor(values, device=generator.device).view(1, -1, 1, 1)
        for values in (decoder.config.mean, decoder.config.std)
    )
    pixels = decoder.decode((mode - mean) / std)[0]
    return ((pixels.float() + 1) / 2).cpu()
