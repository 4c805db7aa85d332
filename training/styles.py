"""The four shipped styles: their metadata, and how each turns a composed image into its own.

A style is a function of the whole image, scene and subject alike, so that it means the same
wherever it is used. The functions work at any size and on any device.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

Paint = Callable[[Tensor], Tensor]
"""RGB [B, 3, E, E] to RGB of the same shape, 0..1."""

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""
INK = (0.08, 0.08, 0.12)
PAPER = (0.97, 0.955, 0.92)
NIGHT = 0.13
"""Factor that darkens the image in neon."""
GRID = 64
"""Squares along an edge of 1024 px in pixel art."""
FULL = 1024
"""Edge in px at which radii are stated."""


class Look(NamedTuple):
    """The appearance of images: the icon set of the subjects, and what is done to the image."""

    set: str
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
    return like.new_tensor(rgb).view(1, 3, 1, 1)


def _luma(x: Tensor) -> Tensor:
    return (x * _colour(LUMA, x)).sum(1, keepdim=True)


def _blur(x: Tensor, sigma: float) -> Tensor:
    """Blurs with a Gaussian; `sigma` in px, edges are replicated."""
    if sigma > 8:
        # The same blur at a quarter of the size costs a fiftieth of the work.
        small = _blur(F.avg_pool2d(x, 4), sigma / 4)
        return F.interpolate(small, size=x.shape[-2:], mode="bilinear", align_corners=False)
    half = max(1, int(3 * sigma + 0.5))
    steps = torch.arange(-half, half + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (steps / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(x.shape[1], 1, -1)
    x = F.pad(x, (half, half, half, half), mode="replicate")
    x = F.conv2d(x, kernel[:, :, None, :], groups=x.shape[1])
    return F.conv2d(x, kernel[:, :, :, None], groups=x.shape[1])


def _slope(x: Tensor) -> Tensor:
    """Length of the gradient of one channel, per px."""
    dy, dx = torch.gradient(x, dim=(2, 3))
    return (dx.square() + dy.square()).sqrt()


def paint_plain(rgb: Tensor) -> Tensor:
    """Leaves the image as it is."""
    return rgb


def paint_flat(rgb: Tensor) -> Tensor:
    """Reduces each channel to six levels with a narrow transition, so that no shading is left."""
    levels = _blur(rgb, 2.0) * 5
    whole = levels.floor()
    return ((whole + ((levels - whole - 0.5) * 12 + 0.5).clamp(0, 1)) / 5).clamp(0, 1)


def paint_ink(rgb: Tensor) -> Tensor:
    """Draws the image in ink on paper: lines where brightness bends, and dark areas filled.

    Source of the lines: Winnemöller et al., "XDoG" (2012).
    """
    luma = _luma(rgb)
    fine, wide = _blur(luma, 2.2), _blur(luma, 4.4)
    lines = (1 + torch.tanh(((fine - wide) + 0.006) * 220)).clamp(max=1)
    filled = ((fine - 0.16) * 30).clamp(0, 1)
    light = lines * filled
    # Where all is dark the ink is white: the lines stay visible in night scenes.
    night = (_blur(luma, 60) < 0.3).to(luma.dtype)
    drawn = (1 - night) * light + night * (1 - lines)
    return _colour(INK, rgb) + drawn * (_colour(PAPER, rgb) - _colour(INK, rgb))


def paint_neon(rgb: Tensor) -> Tensor:
    """Turns outlines into glowing tubes in the image's colours, on a darkened image."""
    soft = _blur(rgb, 2.5)
    tube = (torch.stack([_slope(soft[:, i : i + 1]) for i in range(3)]).amax(0) * 26).clamp(0, 1)
    tube = ((tube - 0.12) / 0.5).clamp(0, 1)
    hue = _blur(rgb, 10.0)
    low, high = hue.amin(1, keepdim=True), hue.amax(1, keepdim=True)
    vivid = ((hue - 0.85 * low) / (high - 0.85 * low).clamp_min(0.02)).clamp(0, 1)
    grey = ((0.14 - (high - low)) / 0.08).clamp(0, 1)
    vivid = (1 - grey) * vivid + grey * _colour((0.45, 0.95, 1.0), hue)
    glow = _blur(tube * vivid, 10.0) * 1.1 + _blur(tube * vivid, 36.0) * 0.7
    return (rgb * NIGHT + tube * (0.55 * vivid + 0.45) + glow).clamp(0, 1)


def paint_pixel(rgb: Tensor) -> Tensor:
    """Reduces the image to squares of 1/GRID of 1024 px with nine levels per channel."""
    edge = FULL // GRID
    small = F.avg_pool2d(rgb, edge)
    return F.interpolate((small * 8).round() / 8, scale_factor=edge, mode="nearest")


PLAIN = Look("fluent", paint_plain)
"""The look of the base."""

STYLES = (
    Style(
        name="flat",
        title="Flat",
        triggers=("flat illustration", "扁平插画"),
        description="Few plain colours, no light or shade.",
        look=Look("flat", paint_flat),
    ),
    Style(
        name="ink",
        title="Ink",
        triggers=("ink drawing", "水墨线稿"),
        description="Drawn in black ink on paper; white ink at night.",
        look=Look("fluent", paint_ink),
    ),
    Style(
        name="neon",
        title="Neon",
        triggers=("neon lights", "霓虹灯"),
        description="Outlines as glowing tubes at night.",
        look=Look("fluent", paint_neon),
    ),
    Style(
        name="pixel",
        title="Pixel art",
        triggers=("pixel art", "像素画"),
        description="A grid of 64 x 64 squares.",
        look=Look("fluent", paint_pixel),
    ),
)
