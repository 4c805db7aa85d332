"""SVG text under construction: gradients and shapes in a 1024 x 1024 frame.

Coordinates are px from the top left corner. Every number is written with one decimal, so a
difference in the last bit of a sine between two machines does not change the text.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise

from training.data.scenes.colour import Colour, css

SIZE = 1024
"""Edge of the frame in px."""

Point = tuple[float, float]
Stop = tuple[float, Colour, float]
"""Offset 0-1, colour, opacity 0-1."""


def number(value: float) -> str:
    """The value with one decimal, without a trailing ".0" or a minus before zero."""
    text = f"{value:.1f}"
    return "0" if text in ("-0.0", "0.0") else text.removesuffix(".0")


def moves(points: Iterable[Point]) -> str:
    """Coordinates as path data writes them."""
    return " ".join(f"{number(x)} {number(y)}" for x, y in points)


def polygon(points: Sequence[Point]) -> str:
    """Path data of a closed polygon."""
    return f"M{moves(points)}Z"


def curve(points: Sequence[Point], *, closed: bool = False) -> str:
    """Path data of a smooth line through the points (Catmull-Rom as cubic Bezier pieces)."""
    count = len(points)
    parts = [f"M{moves(points[:1])}"]
    for i in range(count if closed else count - 1):
        if closed:
            a, b, c, d = (points[(i + k) % count] for k in (-1, 0, 1, 2))
        else:
            a, b, c, d = (points[min(count - 1, max(0, i + k))] for k in (-1, 0, 1, 2))
        first = (b[0] + (c[0] - a[0]) / 6, b[1] + (c[1] - a[1]) / 6)
        second = (c[0] - (d[0] - b[0]) / 6, c[1] - (d[1] - b[1]) / 6)
        parts.append(f"C{moves((first, second, c))}")
    return "".join(parts) + ("Z" if closed else "")


def area(points: Sequence[Point], bottom: float = SIZE) -> str:
    """Path data of what lies between a smooth line, left to right, and a level below it."""
    left, right = points[0][0], points[-1][0]
    return f"{curve(points)}L{moves(((right, bottom), (left, bottom)))}Z"


def ellipse(x: float, y: float, rx: float, ry: float) -> str:
    """Path data of an ellipse, for unions of shapes in one path."""
    arc = f"A{number(rx)} {number(ry)} 0 1 1 "
    return f"M{moves(((x - rx, y),))}{arc}{moves(((x + rx, y),))}{arc}{moves(((x - rx, y),))}Z"


def box(x: float, y: float, width: float, height: float, radius: float = 0.0) -> str:
    """Path data of a rectangle with rounded corners; (x, y) is its top left corner."""
    r = min(radius, width / 2, height / 2)
    if r <= 0:
        return polygon([(x, y), (x + width, y), (x + width, y + height), (x, y + height)])
    turn = f"a{number(r)} {number(r)} 0 0 1 "
    return (
        f"M{moves(((x + r, y),))}h{number(width - 2 * r)}{turn}{moves(((r, r),))}"
        f"v{number(height - 2 * r)}{turn}{moves(((-r, r),))}h{number(2 * r - width)}"
        f"{turn}{moves(((-r, -r),))}v{number(2 * r - height)}{turn}{moves(((r, -r),))}Z"
    )


def ridge(
    rng: random.Random,
    left: float,
    right: float,
    rough: float,
    levels: int = 4,
    *,
    decay: float = 0.5,
) -> list[Point]:
    """A skyline across the frame by midpoint displacement, with 2**levels pieces.

    Args:
        rng: Source of the displacements.
        left: Height of the line's left end, px from the top.
        right: Height of its right end.
        rough: Largest displacement of the first midpoint in px.
        levels: How often the pieces are halved.
        decay: Factor on the displacement after each halving; 0.5 is smooth, 0.7 craggy.
    """
    heights = [left, right]
    for _ in range(levels):
        halved = [heights[0]]
        for a, b in pairwise(heights):
            halved += [(a + b) / 2 + rng.uniform(-rough, rough), b]
        heights, rough = halved, rough * decay
    step = (SIZE + 40) / (len(heights) - 1)
    return [(-20 + i * step, y) for i, y in enumerate(heights)]


def height_at(points: Sequence[Point], x: float) -> float:
    """The height of a line, given left to right, at an x: straight between its points."""
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= x <= x1:
            return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
    return points[-1][1] if x > points[-1][0] else points[0][1]


def blob(
    rng: random.Random,
    x: float,
    y: float,
    rx: float,
    ry: float,
    bumps: int = 9,
    wobble: float = 0.1,
) -> str:
    """Path data of a rounded irregular shape about an ellipse."""
    points = []
    for i in range(bumps):
        angle = math.tau * i / bumps
        scale = 1 + rng.uniform(-wobble, wobble)
        points.append((x + rx * scale * math.cos(angle), y + ry * scale * math.sin(angle)))
    return curve(points, closed=True)


class Painting:
    """One layer: shapes are added back to front, `svg()` returns the document."""

    def __init__(self) -> None:
        self._ids: dict[str, str] = {}
        self._body: list[str] = []

    def _define(self, opening: str, stops: Sequence[Stop]) -> str:
        tag = opening.split(" ", 1)[0]
        inner = "".join(
            f'<stop offset="{offset:.2f}" stop-color="{css(colour)}"'
            + (f' stop-opacity="{opacity:.2f}"/>' if opacity < 1 else "/>")
            for offset, colour, opacity in stops
        )
        name = self._ids.setdefault(f"<{opening} id=%>{inner}</{tag}>", f"g{len(self._ids)}")
        return f"url(#{name})"

    def fall(self, *colours: Colour, slant: float = 0.0) -> str:
        """A fill that runs through the colours from the shape's top to its bottom.

        `slant` (-1 to 1) starts it at the left (negative) or right (positive) top corner.
        """
        last = max(1, len(colours) - 1)
        return self.fade([(i / last, colour, 1.0) for i, colour in enumerate(colours)], slant)

    def fade(self, stops: Sequence[Stop], slant: float = 0.0) -> str:
        """As `fall`, with offsets and opacities given."""
        opening = (
            f'linearGradient x1="{0.5 + slant / 2:.2f}" y1="0" x2="{0.5 - slant / 2:.2f}" y2="1"'
        )
        return self._define(opening, stops)

    def across(self, *colours: Colour) -> str:
        """A fill that runs through the colours from the shape's left to its right."""
        last = max(1, len(colours) - 1)
        stops = [(i / last, colour, 1.0) for i, colour in enumerate(colours)]
        return self._define('linearGradient x1="0" y1="0" x2="1" y2="0"', stops)

    def glow(self, colour: Colour, opacity: float, core: float = 0.0) -> str:
        """A round fill that fades from `opacity` in the shape's middle to nothing at its edge.

        `core` (0-1) is the share of the radius that keeps the full opacity.
        """
        stops = [
            (core, colour, opacity),
            (core + (1 - core) * 0.5, colour, opacity * 0.36),
            (1.0, colour, 0.0),
        ]
        return self._define('radialGradient cx="0.5" cy="0.5" r="0.5"', stops)

    def ball(self, light: Colour, base: Colour, dark: Colour) -> str:
        """A round fill lit from the upper left, as Fluent Emoji shades its volumes."""
        stops = [(0.0, light, 1.0), (0.55, base, 1.0), (1.0, dark, 1.0)]
        return self._define('radialGradient cx="0.36" cy="0.26" r="0.8"', stops)

    def add(self, path: str, fill: str | Colour, opacity: float = 1.0) -> None:
        """Adds a filled path. `fill` is a colour or what a gradient method returned."""
        paint = fill if isinstance(fill, str) else css(fill)
        # Not `opacity`, for which the renderer would make a whole layer: it costs 90 ms.
        extra = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._body.append(f'<path d="{path}" fill="{paint}"{extra}/>')

    def line(self, path: str, colour: str | Colour, width: float, opacity: float = 1.0) -> None:
        """Adds a line with round ends, `width` px wide."""
        paint = colour if isinstance(colour, str) else css(colour)
        extra = f' stroke-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._body.append(
            f'<path d="{path}" fill="none" stroke="{paint}" stroke-width="{number(width)}" '
            f'stroke-linecap="round" stroke-linejoin="round"{extra}/>'
        )

    def svg(self) -> str:
        """The layer as an SVG document with a transparent ground."""
        definitions = "".join(
            text.replace("id=%", f'id="{name}"', 1) for text, name in self._ids.items()
        )
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIZE}" height="{SIZE}" '
            f'viewBox="0 0 {SIZE} {SIZE}"><defs>{definitions}</defs>{"".join(self._body)}</svg>'
        )
