"""Turns rendered images into the transformer's training targets: packed, normalised latents.

Owns how an image is placed on its background and the bank of latents that all training reads.
Everything heavy runs on the device; the images come from `training.data`.
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
"""Edge of the drawing, as a share of the image's."""
PLACES = tuple((x / 32, y / 32) for x in (-1, 1) for y in (-1, 1))
"""Offsets from the middle, as shares of the edge: what seeds differ in. They are a whole token
(two latents) apart, so that a place moves a drawing's tokens instead of giving each a new code; one
latent apart, the transformer had four codes of everything to learn, and details stayed soft."""

BATCH = 32
"""Images drawn and encoded at once."""


class Codec:
    """The trained VAE between RGB images and what the transformer sees.

    Args:
        weights: vae_frames.safetensors of `training.vae`.
        device: where it runs; in bf16 on a GPU.
        compiled: whether encoding is compiled, for batches of BATCH.
    """

    def __init__(self, weights: Path, device: torch.device, compiled: bool = False) -> None:
        self._model = load(weights, device).to(memory_format=torch.channels_last)
        self._dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        # A thousand images pay for compiling; only full batches meet it.
        self._encode = torch.compile(self._model.encode) if compiled else self._model.encode

    @torch.no_grad()
    def encode(self, rgb: Tensor) -> Tensor:
        """RGB [B, 3, 1024, 1024] in 0..1 to packed latents [B, 256, 128], bf16."""
        x = (rgb * 2 - 1).to(self._dtype, memory_format=torch.channels_last)
        encode = self._encode if len(x) == BATCH else self._model.encode
        return pack(encode(x)).bfloat16()

    @torch.no_grad()
    def decode(self, packed: Tensor) -> Tensor:
        """Packed latents to RGB [B, 3, 1024, 1024] in 0..1, fp32."""
        out = self._model.decode(unpack(packed).to(self._dtype))
        return ((out.float() + 1) / 2).clamp(0, 1)


def pack(z: Tensor) -> Tensor:
    """[B, C, H, W] to [B, H/2 * W/2, C * 4], the order of the stock pipeline."""
    b, c, h, w = z.shape
    z = z.view(b, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return z.reshape(b, h // 2 * (w // 2), c * 4)


def unpack(packed: Tensor) -> Tensor:
    """The inverse of `pack` for square grids."""
    b, n, c = packed.shape
    edge = int(n**0.5)
    z = packed.view(b, edge, edge, c // 4, 2, 2).permute(0, 3, 1, 4, 2, 5)
    return z.reshape(b, c // 4, edge * 2, edge * 2)


def premultiply(images: Tensor) -> Tensor:
    """uint8 straight RGBA [B, 4, H, W] to float premultiplied 0..1."""
    x = images.float() / 255
    return torch.cat([x[:, :3] * x[:, 3:], x[:, 3:]], dim=1)


def place(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Premultiplied [B, 4, H, W] drawn smaller and moved: scale [B], shift [B, 2] in edges."""
    theta = torch.zeros(len(images), 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = 1 / scale
    theta[:, :, 2] = -2 * shift / scale[:, None]
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def centred(images: Tensor) -> Tensor:
    """uint8 straight RGBA [B, 4, H, W] in the middle of its image, premultiplied."""
    middle = torch.full((len(images),), REFERENCE_SCALE, device=images.device)
    nowhere = torch.zeros(len(images), 2, device=images.device)
    return place(premultiply(images), middle, nowhere)


def colours(device: torch.device) -> Tensor:
    """The named backgrounds, [14, 3] in 0..1."""
    return torch.tensor([c.rgb for c in COLOURS], device=device) / 255


class Placement(NamedTuple):
    """Which image, background and place: one row per target."""

    concept: Tensor
    colour: Tensor
    scale: Tensor
    shift: Tensor


def placements(concepts: int) -> Placement:
    """Every concept on every background in every place, ordered in that way."""
    index = torch.arange(concepts * len(COLOURS) * len(PLACES))
    return Placement(
        index // (len(COLOURS) * len(PLACES)),
        index // len(PLACES) % len(COLOURS),
        torch.full((len(index),), REFERENCE_SCALE),
        torch.tensor(PLACES)[index % len(PLACES)],
    )


def draw(sets: Sequence[Tensor], rows: Placement, paint: Paint) -> Tensor:
    """RGB [B, 3, 1024, 1024] of the rows.

    Args:
        sets: uint8 RGBA of all concepts, one tensor per set that the painting takes.
        rows: what to draw where.
        paint: turns placed drawings and backgrounds into images.
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
        """Draws and encodes everything, saying how far it is."""
        concepts = len(sets[0])
        rows = placements(concepts)
        total, began, made = len(rows.concept), time.monotonic(), []
        for start in range(0, total, BATCH):
            part = Placement(*(x[start : start + BATCH] for x in rows))
            made.append(codec.encode(draw(sets, part, paint)))
            if start % (200 * BATCH) == 0:
                print(f"latents {start}/{total}, {time.monotonic() - began:.0f} s", flush=True)
        return cls(torch.cat(made).unflatten(0, (concepts, len(COLOURS), len(PLACES))))

    def any(self, concept: Tensor, colour: Tensor) -> Tensor:
        """A random place of each: [B, 256, 128]."""
        place = torch.randint(len(PLACES), concept.shape, device=self.latents.device)
        return self.latents[concept, colour, place]


def references(sets: Sequence[Tensor], paint: Paint) -> Tensor:
    """Every concept in the middle of every background, [14, concepts, 3, 64, 64] in 0..1."""
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
