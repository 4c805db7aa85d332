"""Composes training images on the training device: scene, subjects, front layer.

Everything is gathered by index from images that lie packed in memory, one pixel in four bytes, so
that a compiled `compose` is a single pass over the output. Colours are blended in sRGB, as browsers
do, and premultiplied.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.data.prose.paints import PAINTS
from training.data.scenes.anchors import CELLS, EDGES
from training.data.sprites import CELL, LENGTH, OFFSETS

SIZE = CELLS * CELL
"""Edge of an image in px."""

BOX = ("left", "top", "edge", "sink", "shadow", "foam", "foot", "half")
"""Columns of `Shown.boxes`: an `Anchor` in cells, then the sprite's `contact`."""


def palette(device: torch.device) -> Tensor:
    """Returns the colours of PAINTS as `Shown.paints` takes them [paints + 1, 3].

    The last row, which -1 finds, leaves a subject its own colours.
    """
    rows = [*(paint.rgb for paint in PAINTS.values()), (-255, -255, -255)]
    return torch.tensor(rows, device=device) / 255


class Images(NamedTuple):
    """Everything that images are composed of; pixels are packed RGBA, premultiplied."""

    backs: Tensor
    """Scenes behind the subjects [G, SIZE, SIZE] int32, opaque."""
    fronts: Tensor
    """What stands before the subjects [G, SIZE, SIZE] int32."""
    tints: Tensor
    """Affine maps on sRGB values 0-1 for the subjects [G, 3, 4] float32."""
    shades: Tensor
    """Colours of contact shadows [G, 3] float32, 0-1."""
    sprites: Tensor
    """Subjects in all sizes [C, LENGTH] int32."""


class Shown(NamedTuple):
    """What a batch of images shows."""

    ground: Tensor
    """Index of the scene [B]."""
    concepts: Tensor
    """Index of each subject [B, N]; any where the box is empty."""
    boxes: Tensor
    """[B, N, 8] float32, see BOX, from far to near; an edge of 0 leaves a slot empty."""
    paints: Tensor
    """Colours to paint the subjects in [B, N, 3] float32, 0-1; negative for their own colours."""


def _channel(pixels: Tensor, index: int) -> Tensor:
    return ((pixels >> (8 * index)) & 255).float() / 255


def _unpacked(pixels: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    red, green, blue, alpha = (_channel(pixels, index) for index in range(4))
    return red, green, blue, alpha


def painted(
    colour: tuple[Tensor, Tensor, Tensor], paint: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Paints the coloured parts of a subject; its greys keep their colour.

    A part's lightness moves the paint towards black or white. Colours are straight, 0-1. A
    negative paint changes nothing.
    """
    high = torch.maximum(torch.maximum(colour[0], colour[1]), colour[2])
    low = torch.minimum(torch.minimum(colour[0], colour[1]), colour[2])
    lightness = (high + low) / 2
    share = ((high - low - 0.12) / 0.18).clamp(0, 1) * (paint[0] >= 0)
    dark, light = (lightness * 2).clamp(max=1), (lightness * 2 - 1).clamp(min=0)
    red, green, blue = (
        c + share * (p * dark + (1 - p * dark) * 0.85 * light - c)
        for c, p in zip(colour, paint, strict=True)
    )
    return red, green, blue


def compose(images: Images, shown: Shown, top: Tensor, left: Tensor, edge: int = SIZE) -> Tensor:
    """Composes a window of each image.

    Args:
        images: What they are composed of.
        shown: What they show.
        top: First row of each window [B].
        left: First column of each window [B].
        edge: Edge of the windows in px.

    Returns:
        RGB [B, 3, edge, edge] float32 in 0..1.
    """
    device = images.backs.device
    line = torch.arange(edge, device=device)
    y = (top[:, None] + line)[:, :, None]
    x = (left[:, None] + line)[:, None, :]
    ground = shown.ground[:, None, None]
    red, green, blue, _ = _unpacked(images.backs[ground, y, x])
    canvas = [red, green, blue]
    tint, shade = images.tints[shown.ground], images.shades[shown.ground]
    foam_colour = tint.sum(2).clamp(0, 1)  # white in the scene's light
    px, py = (x + 0.5) / CELL, (y + 0.5) / CELL
    for n in range(shown.boxes.shape[1]):
        own = shown.boxes[:, n, :, None, None]
        box_left, box_top, size, sink, shadow, foam, foot, half = own.unbind(1)
        present = size > 0
        safe = size.clamp(min=1)
        surface = box_top + size * (1 - sink)
        wide = half * safe * 1.12 + 0.03 * safe
        flat = 0.2 * wide
        offset = ((px - (box_left + (0.5 + foot) * safe)) / wide) ** 2
        radius = offset + ((py - surface + 0.2 * flat) / flat) ** 2
        dark = shadow * present * torch.exp(-1.3 * radius * radius.sqrt())
        canvas = [c + dark * (shade[:, i, None, None] - c) for i, c in enumerate(canvas)]

        u, v = x - (box_left * CELL).long(), y - (box_top * CELL).long()
        pixels = (size * CELL).long()
        within = present & (u >= 0) & (v >= 0) & (u < pixels) & (v < pixels)
        start = torch.zeros_like(pixels)
        for step, cells in enumerate(EDGES):
            start = torch.where(size == cells, OFFSETS[step], start)
        index = (start + v * pixels + u).clamp(0, LENGTH - 1)
        red, green, blue, alpha = _unpacked(images.sprites[shown.concepts[:, n, None, None], index])
        paint = shown.paints[:, n, :, None, None]
        solid = alpha.clamp(min=1 / 255)
        straight = painted(
            (red / solid, green / solid, blue / solid), (paint[:, 0], paint[:, 1], paint[:, 2])
        )
        # Below the surface a subject shows faintly and is soon gone; the line ripples a little.
        depth = (py - surface - 0.05 * sink * safe * torch.sin(px * 4.7)) / CELLS
        under = 0.3 * torch.exp(-depth.clamp(min=0) / 0.02) * (depth < 0.06)
        alpha = alpha * within * torch.where((sink > 0) & (depth > 0), under, 1.0)
        for i in range(3):
            rows = tint[:, i, :, None, None]
            lit = rows[:, 3] + sum(rows[:, k] * straight[k] for k in range(3))
            canvas[i] = canvas[i] + alpha * (lit.clamp(0, 1) - canvas[i])
        spray = ((offset + ((py - surface) / flat) ** 2).sqrt() - 1) / 0.16
        ring = 0.8 * foam * present * torch.exp(-(spray**2)) * (py > surface - 0.3 * flat)
        canvas = [c + ring * (foam_colour[:, i, None, None] - c) for i, c in enumerate(canvas)]
    red, green, blue, alpha = _unpacked(images.fronts[ground, y, x])
    front = (red, green, blue)
    return torch.stack([f + (1 - alpha) * c for f, c in zip(front, canvas, strict=True)], 1).clamp(
        0, 1
    )
