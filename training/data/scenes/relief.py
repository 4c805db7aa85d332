"""Ground, rocks and mountains."""

from __future__ import annotations

import random

from training.data.scenes.colour import (
    Colour,
    Light,
    darker,
    lighter,
    rgb,
)
from training.data.scenes.painting import (
    SIZE,
    Painting,
    Point,
    area,
    curve,
    polygon,
    ridge,
)

STONE = rgb("8d95a5")


RANGE = rgb("6f83ad")


def rock(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    width: float,
    colour: Colour = STONE,
    depth: float = 0.0,
) -> None:
    """A rounded stone on a level base."""
    height = width * rng.uniform(0.5, 0.7)
    points = [
        (x - width / 2, y),
        (x - width * 0.4, y - height * rng.uniform(0.5, 0.75)),
        (x + width * rng.uniform(-0.15, 0.05), y - height),
        (x + width * 0.38, y - height * rng.uniform(0.45, 0.7)),
        (x + width / 2, y),
    ]
    fill = p.fall(
        light.tone(lighter(colour, 0.3), depth),
        light.tone(colour, depth),
        light.tone(darker(colour, 0.3), depth),
        slant=-0.4,
    )
    p.add(f"{curve(points)}Z", fill)


def mountains(
    p: Painting,
    light: Light,
    rng: random.Random,
    base: float,
    height: float,
    *,
    depth: float,
    colour: Colour = RANGE,
    snow: bool = True,
    count: int = 3,
) -> None:
    """A chain of peaks with a lit and a shaded flank each, standing on a level line."""
    spots = [(i + rng.uniform(0.25, 0.75)) * SIZE / count for i in range(count)]
    peaks = [(x, height * rng.uniform(0.68, 1.0)) for x in spots]
    for x, tall in sorted(peaks, key=lambda peak: peak[1]):
        half = tall * rng.uniform(0.85, 1.05)
        top = base - tall
        crag = [rng.uniform(-0.05, 0.05) * tall for _ in range(4)]
        left = [
            (x - half, base),
            (x - half * 0.55 + crag[0], base - tall * 0.48),
            (x - half * 0.25 + crag[1], base - tall * 0.72),
        ]
        right = [
            (x + half * 0.25 + crag[2], base - tall * 0.74),
            (x + half * 0.55 + crag[3], base - tall * 0.46),
            (x + half, base),
        ]
        spine = [
            (x + tall * 0.05, base - tall * 0.62),
            (x - tall * 0.03, base - tall * 0.36),
            (x + tall * 0.12, base),
        ]
        lit = p.fall(
            light.tone(lighter(colour, 0.25), depth),
            light.tone(lighter(colour, 0.12), min(1, depth + 0.25)),
        )
        dark = p.fall(
            light.tone(darker(colour, 0.12), depth), light.tone(colour, min(1, depth + 0.25))
        )
        p.add(polygon([*left, (x, top), *right]), lit)
        p.add(polygon([(x, top), *right, *reversed(spine)]), dark)
        if not snow:
            continue
        cut = 0.3
        a, b = (x - half * cut * 0.92, top + tall * cut), (x + half * cut * 0.92, top + tall * cut)
        teeth = [
            (x + half * 0.14, top + tall * 0.24),
            (x + half * 0.05, top + tall * 0.36),
            (x - half * 0.08, top + tall * 0.25),
        ]
        white = light.tone(rgb("ffffff"), depth * 0.5)
        p.add(polygon([(x, top), b, *teeth, a]), white)
        p.add(
            polygon([(x, top), b, teeth[0], teeth[1], (x + tall * 0.03, top + tall * 0.2)]),
            light.tone(rgb("bfd0ea"), depth * 0.5),
        )


GRASS = rgb("7cc354")


def land(
    p: Painting,
    light: Light,
    rng: random.Random,
    level: float,
    colour: Colour,
    *,
    rough: float = 30,
    depth: float = 0.0,
    levels: int = 3,
    fall: float = 0.2,
) -> list[Point]:
    """A rolling layer of ground; returns its skyline.

    One that stands far off (`depth` above 0) ends 170 px below its level, where nearer ground
    covers it: painting what is not seen takes most of the renderer's time.
    """
    line = ridge(
        rng, level + rng.uniform(-rough, rough), level + rng.uniform(-rough, rough), rough, levels
    )
    top, middle = light.tone(lighter(colour, 0.16), depth), light.tone(colour, depth * 0.8)
    if depth > 0:
        p.add(area(line, level + 170), p.fall(top, middle))
    else:
        p.add(area(line), p.fall(top, middle, light.tone(darker(colour, fall))))
    return line


def sides(rng: random.Random, count: int, clear: float = 0.24) -> list[float]:
    """X of `count` things that leave the frame's middle free, as many left as right."""
    spots = []
    for i in range(count):
        offset = rng.uniform(clear, 0.52)
        spots.append(SIZE * (0.5 + (offset if i % 2 else -offset)))
    return sorted(spots)
