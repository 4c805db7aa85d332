"""What the VAE alone keeps of a generating: stock encoder, our decoder.

Owns the round trip at full size. Knows nothing of prompts or of the transformer.
"""

from __future__ import annotations

import random
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.quality.artist import Artist
from benchmarks.quality.measures import psnr
from benchmarks.quality.store import Kept
from training.data.captions import COLOURS
from training.data.concepts import Concept
from training.data.images import collect_svgs, svg_name
from training.data.render import compose, render
from training.styles import PLAIN
from wuliart_contract.limits import IMAGE_SIZE

COUNT = 24


def measure(
    artist: Artist, concepts: Sequence[Concept], cache: Path, advance: Callable[[], None]
) -> list[float]:
    """PSNR in dB of COUNT drawings, each on a random named background.

    They are the first by code: those that the VAE's training holds out.
    """
    rng = random.Random(0)
    key = artist.key("base")
    vae = None
    values: list[float] = []
    for concept in sorted(concepts, key=lambda c: c.code)[:COUNT]:
        ground = rng.choice(COLOURS).rgb
        name = f"reconstruction {concept.code} {ground}"
        kept = artist.store.read(key, name)
        if kept is None:
            vae = vae or _stock_vae(artist)
            truth = _drawing(concept, ground, concepts, cache)
            kept = Kept({"psnr": psnr(_round_trip(vae, artist, truth), truth)})
            artist.store.write(key, name, kept)
        values.append(kept.facts["psnr"])
        advance()
    return values


def _drawing(
    concept: Concept, ground: tuple[int, int, int], concepts: Sequence[Concept], cache: Path
) -> Tensor:
    """[3, 1024, 1024] in 0..1."""
    with zipfile.ZipFile(collect_svgs(list(concepts), cache)) as svgs:
        svg = svgs.read(svg_name(PLAIN.sets[0], concept.code)).decode()
    rgb = torch.from_numpy(compose(render(svg, IMAGE_SIZE), ground))
    return rgb.permute(2, 0, 1).float() / 255


def _stock_vae(artist: Artist) -> Any:
    from diffusers import AutoencoderKLQwenImage

    vae = AutoencoderKLQwenImage.from_pretrained(
        artist.checkpoint / "vae", torch_dtype=torch.float32
    )
    return vae.to(artist.device)


@torch.inference_mode()
def _round_trip(vae: Any, artist: Artist, image: Tensor) -> Tensor:
    """[3, 1024, 1024] in 0..1 to latents, normalised as the transformer sees them, and back."""
    decoder = artist.base.model.vae
    frame = (image * 2 - 1)[None, :, None].to(artist.device)
    mode = vae.encode(frame).latent_dist.mode()[:, :, 0]
    mean, std = (
        torch.tensor(values, device=artist.device).view(1, -1, 1, 1)
        for values in (decoder.config.mean, decoder.config.std)
    )
    pixels = decoder.decode((mode - mean) / std)[0]
    return ((pixels.float() + 1) / 2).cpu()
