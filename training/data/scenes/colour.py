"""Colour arithmetic and the lights that a scene is painted in.

A colour is three sRGB values, 0-255. A light turns daytime colours into those of sunset or night,
so every painter states each colour once.
"""

from __future__ import annotations

import colorsys
import random
from dataclasses import dataclass

Colour = tuple[float, float, float]
"""sRGB, 0-255."""

Tint = tuple[tuple[float, float, float, float], ...]
"""Three rows of an affine map on sRGB values 0-1: out = rows[:, :3] @ rgb + rows[:, 3]."""

WHITE: Colour = (255, 255, 255)
BLACK: Colour = (0, 0, 0)
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in brightness (ITU-R BT.601)."""


def rgb(text: str) -> Colour:
    """The colour of a hexadecimal text such as "58a7f0"."""
    return int(text[0:2], 16), int(text[2:4], 16), int(text[4:6], 16)


def css(colour: Colour) -> str:
    """The colour as SVG writes it, for example "#58a7f0"."""
    return "#" + "".join(f"{min(255, max(0, round(value))):02x}" for value in colour)


def mix(first: Colour, second: Colour, share: float) -> Colour:
    """The colour `share` (0-1) of the way from the first to the second."""
    red, green, blue = (a + (b - a) * share for a, b in zip(first, second, strict=True))
    return red, green, blue


def lighter(colour: Colour, share: float) -> Colour:
    """The colour moved towards white."""
    return mix(colour, WHITE, share)


def darker(colour: Colour, share: float) -> Colour:
    """The colour moved towards a dark blue, which looks cleaner than black."""
    return mix(colour, (18, 20, 48), share)


def vary(rng: random.Random, colour: Colour, hue: float = 0.02, saturation: float = 0.1) -> Colour:
    """The colour with hue (in turns) and saturation (in shares) moved at random within bounds."""
    h, s, v = colorsys.rgb_to_hsv(*(value / 255 for value in colour))
    h = (h + rng.uniform(-hue, hue)) % 1.0
    s = min(1.0, s * (1 + rng.uniform(-saturation, saturation)))
    red, green, blue = colorsys.hsv_to_rgb(h, s, v)
    return red * 255, green * 255, blue * 255


def tint(gain: Colour = (1, 1, 1), lift: Colour = (0, 0, 0), desaturate: float = 0.0) -> Tint:
    """The affine map that desaturates by a share, then multiplies by `gain` and adds `lift`.

    Gain and lift are in units of 1, not of 255.
    """
    keep = 1 - desaturate
    rows = []
    for row in range(3):
        red, green, blue = (
            gain[row] * (keep * (row == column) + desaturate * LUMA[column]) for column in range(3)
        )
        rows.append((red, green, blue, lift[row]))
    return tuple(rows)


@dataclass(frozen=True, slots=True)
class Light:
    """A time of day or a weather.

    `sky` runs from the zenith to the horizon. `gain` (0-1), `lift` (0-255) and `desaturate` turn
    daytime colours into this light's; `haze` is what distance fades to. `tint` does the same to
    subjects, more gently, so that they stay recognizable. `shade` is the colour of shadows.
    """

    name: str
    sky: tuple[Colour, Colour, Colour]
    haze: Colour
    cloud: Colour
    gain: Colour
    lift: Colour
    tint: Tint
    shade: Colour
    desaturate: float = 0.0

    def tone(self, colour: Colour, depth: float = 0.0) -> Colour:
        """A daytime colour in this light; `depth` (0-1) fades it into the haze."""
        grey = sum(value * weight for value, weight in zip(colour, LUMA, strict=True))
        red, green, blue = (
            (value + (grey - value) * self.desaturate) * gain + lift
            for value, gain, lift in zip(colour, self.gain, self.lift, strict=True)
        )
        return mix((red, green, blue), self.haze, depth)


LIGHTS = {
    light.name: light
    for light in (
        Light(
            name="day",
            sky=(rgb("3f9cf0"), rgb("86c8fa"), rgb("dff3ff")),
            haze=rgb("d3ebfa"),
            cloud=WHITE,
            gain=(1, 1, 1),
            lift=(0, 0, 0),
            tint=tint(),
            shade=(30, 40, 80),
        ),
        Light(
            name="sunset",
            sky=(rgb("6b5bb0"), rgb("f08a8c"), rgb("ffd592")),
            haze=rgb("ffb98e"),
            cloud=rgb("ffc2a8"),
            gain=(0.97, 0.8, 0.74),
            lift=(24, 4, 22),
            tint=tint((1.02, 0.89, 0.8), (0.03, 0.0, 0.0)),
            shade=(70, 25, 70),
        ),
        Light(
            name="night",
            sky=(rgb("0d1440"), rgb("1c2c6e"), rgb("3d549e")),
            haze=rgb("34478c"),
            cloud=rgb("4a5ca4"),
            gain=(0.45, 0.54, 0.7),
            lift=(8, 14, 40),
            tint=tint((0.62, 0.68, 0.88), (0.01, 0.02, 0.07), 0.2),
            shade=(4, 6, 30),
            desaturate=0.2,
        ),
        Light(
            name="overcast",
            sky=(rgb("74879f"), rgb("94a7ba"), rgb("bccad6")),
            haze=rgb("b0c0cd"),
            cloud=rgb("8495a9"),
            gain=(0.72, 0.78, 0.84),
            lift=(4, 8, 14),
            tint=tint((0.88, 0.92, 0.96), (0, 0.005, 0.015), 0.15),
            shade=(28, 38, 62),
            desaturate=0.25,
        ),
    )
}
