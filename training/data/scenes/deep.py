"""The setting below the surface of the sea."""

from __future__ import annotations

import math
import random

from training.data.scenes import relief
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import (
    Colour,
    Light,
    darker,
    lighter,
    mix,
    rgb,
    tint,
    vary,
)
from training.data.scenes.painting import (
    SIZE,
    Painting,
    area,
    box,
    curve,
    ellipse,
    height_at,
    moves,
    polygon,
    ridge,
)
from training.data.scenes.relief import sides
from training.data.scenes.scene import Layers, setting


def _weed(
    p: Painting, light: Light, rng: random.Random, x: float, y: float, height: float, colour: Colour
) -> None:
    """A ribbon of seaweed that sways."""
    sway, wide = rng.choice((-1, 1)) * height * 0.09, height * 0.05
    left, right = [], []
    for i in range(6):
        share = i / 5
        cx = x + sway * math.sin(share * 5.5)
        w = wide * (1 - share) ** 0.6
        left.append((cx - w, y - height * share))
        right.append((cx + w, y - height * share))
    path = f"{curve(left)}L{curve(right[::-1])[1:]}Z"
    p.add(path, p.fall(light.tone(lighter(colour, 0.25)), light.tone(darker(colour, 0.2))))


def _coral(
    p: Painting, light: Light, rng: random.Random, x: float, y: float, height: float
) -> None:
    """A branching coral."""
    colour = rng.choice((rgb("ff7f8f"), rgb("ffa34d"), rgb("c887f0"), rgb("ff6fb0")))
    path = []
    for lean in (-0.5, -0.18, 0.16, 0.5):
        tip = (
            x + lean * height * 1.1,
            y - height * (1 - abs(lean) * 0.5) * rng.uniform(0.85, 1.05),
        )
        path.append(
            f"M{moves(((x, y + 6),))}Q{moves(((x + lean * height * 0.3, y - height * 0.5), tip))}"
        )
    p.line("".join(path), light.tone(darker(colour, 0.12)), height * 0.17)
    p.line("".join(path), light.tone(lighter(colour, 0.12)), height * 0.1)


def _bubbles(p: Painting, rng: random.Random, count: int, size: tuple[float, float]) -> None:
    for _ in range(count):
        x, y, r = (
            512 + rng.choice((-1, 1)) * rng.uniform(150, 500),
            rng.uniform(80, 900),
            rng.uniform(*size),
        )
        p.add(ellipse(x, y, r, r), rgb("e6fbff"), 0.28)
        p.line(ellipse(x, y, r, r), rgb("f2fdff"), 2.5, 0.7)
        p.add(ellipse(x - r * 0.35, y - r * 0.35, r * 0.25, r * 0.25), rgb("ffffff"), 0.9)


@setting({"day": "day", "night": "night"})
def underwater(layers: Layers) -> Stage:
    """Below the surface: shafts of light, a sandy floor, corals and seaweed."""
    p, light, rng = layers.back, layers.light, layers.rng
    blue = vary(rng, rgb("1c8fd0"), 0.025)
    p.add(
        box(0, 0, SIZE, SIZE),
        p.fall(
            light.tone(rgb("8fe6f5")),
            light.tone(lighter(blue, 0.2)),
            light.tone(blue),
            light.tone(darker(blue, 0.3)),
        ),
    )
    for _ in range(5):
        x, width = rng.uniform(0, SIZE), rng.uniform(50, 110)
        shaft = polygon(
            [(x, -10), (x + width, -10), (x + width * 2.2 - 130, 820), (x - 130 - width * 0.8, 820)]
        )
        p.add(
            shaft,
            p.fade(
                [(0, rgb("ffffff"), 0.26 if light.name == "day" else 0.1), (1, rgb("ffffff"), 0.0)]
            ),
        )
    haze = mix(blue, rgb("8fe6f5"), 0.25)
    line = ridge(rng, 760, 760, 60, 3)
    p.add(area(line), p.fall(light.tone(mix(haze, rgb("1a5f9c"), 0.35)), light.tone(haze)))
    sand = rgb("d9cfa0")
    floor = ridge(rng, 840, 840, 18, 3)
    p.add(area(floor), p.fall(light.tone(mix(sand, blue, 0.3)), light.tone(mix(sand, blue, 0.12))))
    for x in sides(rng, 10, 0.27):
        _weed(
            p,
            light,
            rng,
            x,
            height_at(floor, x) + 26,
            rng.uniform(110, 270),
            vary(rng, rgb("2fa36b"), 0.05),
        )
    for x in sides(rng, 4, 0.3):
        relief.rock(p, light, rng, x, 900, rng.uniform(90, 150), rgb("5d7fa3"))
    for x in sides(rng, 4, 0.28):
        _coral(p, light, rng, x, 910, rng.uniform(80, 130))
    _bubbles(p, rng, 10, (6, 17))
    f = layers.front
    for x in sides(rng, 4, 0.45):
        _weed(f, light, rng, x, SIZE + 20, rng.uniform(200, 330), rgb("2b9466"))
    _bubbles(f, rng, 5, (10, 24))
    layers.tint = (
        tint((0.86, 0.94, 0.97), (0, 0.05, 0.08))
        if light.name == "day"
        else tint((0.5, 0.64, 0.82), (0.01, 0.05, 0.13), 0.15)
    )
    return Stage(ground=None)
