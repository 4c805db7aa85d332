"""The four shipped styles: their metadata, and how each derives an image from the emoji sets.

A `Paint` function takes premultiplied RGBA renderings of a concept and a plain background and
returns the whole image. It works at any size and on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Paint = Callable[[list[Tensor], Tensor], Tensor]
"""(premultiplied RGBA [B, 4, E, E] per set, background [B, 3]) -> RGB [B, 3, E, E]; 0..1."""

INK = (0.07, 0.07, 0.09)
PAPER = (0.97, 0.96, 0.93)
NIGHT = 0.16
"""Factor that darkens the background in neon."""
GRID = 32
"""Pixels along an edge in pixel art."""


class Look(NamedTuple):
    """The appearance of concepts: the renderings used, and how they become an image."""

    sets: tuple[str, ...]
    """Sets of `training.data` whose renderings `paint` takes, in this order."""
    paint: Paint


@dataclass(frozen=True, slots=True)
class Style:
    """One style; its adapter is `loras/NAME.safetensors`."""

    name: str
    title: str
    triggers: tuple[str, ...]
    """Trigger words (English, Chinese); the adapter works without them too."""
    description: str
    look: Look


def _colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(rgb, device=like.device, dtype=like.dtype).view(1, 3, 1, 1)


def paint_plain(renderings: list[Tensor], ground: Tensor) -> Tensor:
    """Composes over the background: out = premultiplied colour + (1 - alpha) * background."""
    return renderings[0][:, :3] + (1 - renderings[0][:, 3:]) * ground[:, :, None, None]


def paint_ink(renderings: list[Tensor], ground: Tensor) -> Tensor:
    """Inks the high-contrast set on the background; the ink is white where that is dark."""
    alpha = renderings[0][:, 3:]
    light = (ground @ ground.new_tensor([0.299, 0.587, 0.114]) > 0.35).view(-1, 1, 1, 1)
    ink = torch.where(light, _colour(INK, ground), _colour(PAPER, ground))
    return alpha * ink + (1 - alpha) * ground[:, :, None, None]


def _blur(x: Tensor, radius: float) -> Tensor:
    """Blurs with a Gaussian whose sigma is `radius`, a share of the edge; replicates edges."""
    sigma = radius * x.shape[-1]
    if sigma > 8:
        # The same blur at a quarter of the size costs a fiftieth of the work.
        small = _blur(F.avg_pool2d(x, 4), radius)
        return F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
    half = max(1, int(3 * sigma + 0.5))
    steps = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, (half, half, half, half), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, :, None], groups=x.shape[1])


def paint_neon(renderings: list[Tensor], ground: Tensor) -> Tensor:
    """Turns outlines into glowing tubes in the concept's colours, on a darkened background."""
    contrast, colour = renderings
    edge = contrast.shape[-1]
    near = _blur(contrast[:, 3:], 0.004)
    # |gradient| of a smooth edge peaks on the outline, which gives a tube of constant width.
    dy, dx = torch.gradient(near, dim=(2, 3))
    tube = ((dx.square() + dy.square()).sqrt() * edge / 45).clamp(0, 1)
    # Colours spread outwards a little, then are brought to full saturation and brightness.
    spread = _blur(colour, 0.02)
    hue = spread[:, :3] / spread[:, 3:].clamp_min(1e-3)
    low, high = hue.amin(1, keepdim=True), hue.amax(1, keepdim=True)
    vivid = (hue - 0.85 * low) / (high - 0.85 * low).clamp_min(0.02)
    grey = ((high - low) < 0.12).to(hue.dtype)
    vivid = (1 - grey) * vivid + grey * _colour((0.45, 0.95, 1.0), hue)
    glow = _blur(tube * vivid, 0.012) * 1.6 + _blur(tube * vivid, 0.04) * 1.2
    light = tube * (0.55 * vivid + 0.45) + glow
    night = ground[:, :, None, None] * NIGHT
    return (night + light).clamp(0, 1)


def paint_pixel(renderings: list[Tensor], ground: Tensor) -> Tensor:
    """Reduces the colour set to 32 x 32 squares with seven levels per channel."""
    edge = renderings[0].shape[-1]
    small = F.interpolate(renderings[0], size=(GRID, GRID), mode="area")
    # As in hand-made pixel art, a square is all subject or all background.
    solid = (small[:, 3:] > 0.5).to(small.dtype)
    colour = small[:, :3] / small[:, 3:].clamp_min(1e-3)
    colour = ((colour * 6).round() / 6).clamp(0, 1)
    squares = solid * colour + (1 - solid) * ground[:, :, None, None]
    return F.interpolate(squares, size=(edge, edge), mode="nearest")


PLAIN = Look(("fluent",), paint_plain)
"""The look of the base."""

STYLES = (
    Style(
        name="flat",
        title="Flat",
        triggers=("flat illustration", "扁平插画"),
        description="Few plain colours, no light or shade.",
        look=Look(("flat",), paint_plain),
    ),
    Style(
        name="ink",
        title="Ink",
        triggers=("ink drawing", "水墨线稿"),
        description="Bold drawing in one ink; white on dark backgrounds.",
        look=Look(("contrast",), paint_ink),
    ),
    Style(
        name="neon",
        title="Neon",
        triggers=("neon lights", "霓虹灯"),
        description="Outlines as glowing tubes at night.",
        look=Look(("contrast", "fluent"), paint_neon),
    ),
    Style(
        name="pixel",
        title="Pixel art",
        triggers=("pixel art", "像素画"),
        description="A grid of 32 x 32 squares.",
        look=Look(("fluent",), paint_pixel),
    ),
)
