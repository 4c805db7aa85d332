"""Turns renderings into the transformer's training targets: packed, normalised latents.

A rendering is scaled, shifted, and composed over its background on the training device, then
encoded by the VAE. `Bank` holds the targets of all concepts.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from training.autoencoder import load
from training.data.captions import COLOURS
from training.styles import Paint

REFERENCE_SCALE = 0.94
"""Edge of the rendering, as a share of the image's edge."""
PLACES = tuple((x / 32, y / 32) for x in (-1, 1) for y in (-1, 1))
"""Offsets from the middle, as shares of the edge; the seed decides among them. Places are a whole
token (two latents) apart, so a shift moves tokens without changing their values. With places one
latent apart the transformer had to learn four codes of everything, and details stayed soft."""

BATCH = 32
"""Images composed and encoded at once."""


class Codec:
    """The trained VAE: converts between RGB images and packed latents.

    Args:
        weights: vae_frames.safetensors, as `training.vae` saves it.
        device: Device to run on; bf16 on a GPU, else fp32.
        compiled: Compiles the encoder for batches of BATCH.
    """

    def __init__(self, weights: Path, device: torch.device, compiled: bool = False) -> None:
        self._model = load(weights, device).to(memory_format=torch.channels_last)
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        # Compiling pays off after about a thousand images; only full batches use it.
        self._encode = torch.compile(self._model.encode) if compiled else self._model.encode

    @torch.no_grad()
    def encode(self, rgb: Tensor) -> Tensor:
        """Encodes RGB [B, 3, 1024, 1024] in 0..1 to packed latents [B, 256, 128], bf16."""
        x = (rgb * 2 - 1).to(self._dtype, memory_format=torch.channels_last)
        encode = self._encode if len(x) == BATCH else self._model.encode
        return pack(encode(x)).bfloat16()

    @torch.no_grad()
    def decode(self, packed: Tensor) -> Tensor:
        """Decodes packed latents to RGB [B, 3, 1024, 1024] in 0..1, fp32."""
        out = self._model.decode(unpack(packed).to(self._dtype))
        return ((out.float() + 1) / 2).clamp(0, 1)


def pack(z: Tensor) -> Tensor:
    """Packs [B, C, H, W] to [B, H/2 * W/2, C * 4], in the order of the stock pipeline."""
    b, c, h, w = z.shape
    z = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(b, h // 2 * (w // 2), c * 4)


def unpack(packed: Tensor) -> Tensor:
    """Inverts `pack` for square grids."""
    b, n, c = packed.shape
    edge = int(n**0.5)
    z = packed.view(b, edge, edge, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(b, c // 4, edge * 2, edge * 2)


def premultiply(images: Tensor) -> Tensor:
    """Converts uint8 RGBA [B, 4, H, W] with straight alpha to float, premultiplied, in 0..1."""
    x = images.float() / 255
    return torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], dim=1)


def place(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Scales and shifts premultiplied images.

    Args:
        images: [B, 4, H, W].
        scale: Factors [B].
        shift: Horizontal and vertical offsets [B, 2], as shares of the edge.
    """
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -2 * shift / scale[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def centred(images: Tensor) -> Tensor:
    """Centres uint8 RGBA [B, 4, H, W] with straight alpha; the result is premultiplied."""
    middle = torch.full((len(images),), REFERENCE_SCALE, device=images.device)
    nowhere = torch.zeros(len(images), 2, device=images.device)
    return place(premultiply(images), middle, nowhere)


def colours(device: torch.device) -> Tensor:
    """Returns the named backgrounds, [14, 3] in 0..1."""
    return torch.tensor([c.rgb for c in COLOURS], device=device) / 255


class Placement(NamedTuple):
    """Concept, background, and place; one row per target."""

    concept: Tensor
    colour: Tensor
    scale: Tensor
    shift: Tensor


def placements(concepts: int) -> Placement:
    """Returns every concept on every background in every place, nested in this order."""
    index = torch.arange(concepts * len(COLOURS) * len(PLACES))
    return Placement(
        index // (len(COLOURS) * len(PLACES)),
        index // len(PLACES) % len(COLOURS),
        torch.full((len(index),), REFERENCE_SCALE),
        torch.tensor(PLACES)[index % len(PLACES)],
    )


def render_targets(sets: Sequence[Tensor], rows: Placement, paint: Paint) -> Tensor:
    """Composes the target images, RGB [B, 3, 1024, 1024].

    Args:
        sets: uint8 RGBA of all concepts, one tensor per set that `paint` takes.
        rows: Concept, background, and place of each image.
        paint: Combines placed renderings and backgrounds.
    """
    device = sets[0].device
    concept, scale, shift = (x.to(device) for x in (rows.concept, rows.scale, rows.shift))
    placed = [place(premultiply(images[concept]), scale, shift) for images in sets]
    return paint(placed, colours(device)[rows.colour.to(device)])


class Bank:
    """Targets of all concepts.

    Args:
        latents: [concepts, 14 backgrounds, 4 places, 256, 128] bf16.
    """

    def __init__(self, latents: Tensor) -> None:
        self.latents = latents

    @classmethod
    def build(cls, sets: Sequence[Tensor], paint: Paint, codec: Codec) -> Bank:
        """Composes and encodes all targets, printing progress."""
        concepts = len(sets[0])
        rows = placements(concepts)
        total, began, made = len(rows.concept), time.monotonic(), []
        for start in range(0, total, BATCH):
            part = Placement(*(x[start : start + BATCH] for x in rows))
            made.append(codec.encode(render_targets(sets, part, paint)))
            if start % (200 * BATCH) == 0:
                print(f"latents {start}/{total}, {time.monotonic() - began:.0f} s", flush=True)
        return cls(torch.cat(made).unflatten(0, (concepts, len(COLOURS), len(PLACES))))

    def any(self, concept: Tensor, colour: Tensor) -> Tensor:
        """Returns targets [B, 256, 128] at random places."""
        place = torch.randint(len(PLACES), concept.shape, device=self.latents.device)
        return self.latents[concept, colour, place]


def references(sets: Sequence[Tensor], paint: Paint) -> Tensor:
    """Returns every concept centred on every background, [14, concepts, 3, 64, 64] in 0..1."""
    grounds = colours(sets[0].device)
    made: list[list[Tensor]] = [[] for _ in grounds]
    for start in range(0, len(sets[0]), BATCH):
        small = []
        for images in sets:
            placed = centred(images[start : start + BATCH])
            small.append(F.interpolate(placed, size=(256, 256), mode="area"))
        for ground, kept in zip(grounds, made, strict=True):
            rgb = paint(small, ground.expand(len(small[0]), 3))
            kept.append(F.interpolate(rgb, size=(64, 64), mode="area"))
    return torch.stack([torch.cat(kept) for kept in made])
