"""Settings that are mostly sky: sky, night sky, space, moon."""

from __future__ import annotations

import math
import random

from training.data.scenes import heavens, nature
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import Colour, darker, lighter, rgb, tint, vary
from training.data.scenes.painting import (
    SIZE,
    Painting,
    area,
    box,
    curve,
    ellipse,
    height_at,
    polygon,
    ridge,
)
from training.data.scenes.relief import sides
from training.data.scenes.scene import Layers, setting


@setting({"day": "day", "sunset": "sunset"})
def sky(layers: Layers) -> Stage:
    """High above the ground: blue sky, cumulus at the sides, a floor of clouds."""
    p, light, rng = layers.back, layers.light, layers.rng
    p.add(box(0, 0, SIZE, SIZE), p.fall(*light.sky))
    side = rng.choice((-1, 1))
    colour = rgb("ffd84a") if light.name == "day" else rgb("ffb13d")
    heavens.sun(p, 512 + side * rng.uniform(300, 390), rng.uniform(120, 180), 58, colour)
    for x, y in ((90.0, 330.0), (930.0, 420.0), (140.0, 640.0), (900.0, 700.0)):
        width = rng.uniform(190, 290)
        heavens.cloud(p, light, rng, x + rng.uniform(-60, 60), y + rng.uniform(-50, 50), width)
    heavens.cloud(p, light, rng, 512 - side * rng.uniform(120, 260), rng.uniform(130, 200), 170)
    for y, size in ((985.0, 1.0), (1040.0, 1.2)):
        x = -40.0
        while x < SIZE + 80:
            heavens.cloud(
                p, light, rng, x, y + rng.uniform(-24, 24), 300 * size * rng.uniform(0.85, 1.15)
            )
            x += 165
    f = layers.front
    for x in (-10, 1034):
        heavens.cloud(f, light, rng, x + rng.uniform(-40, 40), 1050, rng.uniform(380, 460))
    layers.front_top = 800
    return Stage(ground=None)


@setting({"night": "night"})
def night_sky(layers: Layers) -> Stage:
    """A starry sky over dark hills."""
    p, light, rng = layers.back, layers.light, layers.rng
    p.add(box(0, 0, SIZE, SIZE), p.fall(rgb("0a0f36"), rgb("18246a"), rgb("3a4fa6"), rgb("7a74c4")))
    x = rng.uniform(60, 240)
    for i, colour in enumerate((rgb("8f9bf0"), rgb("a98ff0"), rgb("7fb0f0"), rgb("b69cf0"))):
        p.add(ellipse(x + i * 210, 130 + i * 190, 240, 170), p.glow(colour, 0.3))
    side = rng.choice((-1, 1))
    x, y = 512 + side * rng.uniform(300, 390), rng.uniform(130, 190)
    heavens.stars(p, rng, 96, 820, pointed=0.24, avoid=(x, y))
    heavens.moon(p, rng, x, y, rng.uniform(66, 84))
    if rng.random() < 0.6:
        x, y = 512 - side * rng.uniform(240, 400), rng.uniform(110, 240)
        tail = polygon([(x, y - 4), (x + side * 150, y - 84), (x, y + 5)])
        p.add(tail, rgb("fff6d8"), 0.45)
        p.add(heavens.star(x, y, 20), rgb("fffbe8"))
    for level, colour in ((905, rgb("2c3a86")), (955, rgb("1b2560"))):
        line = ridge(rng, level, level, 38, 3)
        p.add(area(line), p.fall(lighter(colour, 0.08), darker(colour, 0.25)))
        if level > 930:
            for x in sides(rng, 8, 0.16):
                nature.pine(p, light, rng, x, height_at(line, x) + 14, rng.uniform(50, 90))
    return Stage(ground=None)


def _planet(
    p: Painting, rng: random.Random, x: float, y: float, r: float, colour: Colour, ringed: bool
) -> None:
    """A banded planet, with a ring around it where `ringed`."""
    ring = None
    if ringed:
        turn = rng.uniform(-0.4, -0.2)
        points = []
        for i in range(24):
            a = math.tau * i / 24
            u, v = r * 1.75 * math.cos(a), r * 0.42 * math.sin(a)
            points.append(
                (
                    x + u * math.cos(turn) - v * math.sin(turn),
                    y + u * math.sin(turn) + v * math.cos(turn),
                )
            )
        ring = points
        p.line(curve(ring, closed=True), lighter(colour, 0.45), r * 0.15, 0.9)
    p.add(ellipse(x, y, r * 1.5, r * 1.5), p.glow(lighter(colour, 0.3), 0.3, 0.45))
    p.add(ellipse(x, y, r, r), p.ball(lighter(colour, 0.45), colour, darker(colour, 0.5)))
    if ring:
        p.line(curve(ring[0:13]), lighter(colour, 0.55), r * 0.15)
    else:
        for dx, dy, share in ((-0.25, 0.1, 0.2), (0.3, -0.3, 0.13), (0.2, 0.42, 0.16)):
            p.add(ellipse(x + dx * r, y + dy * r, share * r, share * r), darker(colour, 0.22), 0.6)


@setting({"night": "night"})
def space(layers: Layers) -> Stage:
    """Outer space: nebulae, stars, planets."""
    p, rng = layers.back, layers.rng
    deep, mid = rng.choice(
        (
            (rgb("0b0a2a"), rgb("2a1a5e")),
            (rgb("070c26"), rgb("1b1650")),
            (rgb("120826"), rgb("3a1458")),
        )
    )
    p.add(box(0, 0, SIZE, SIZE), p.fall(deep, mid, deep, slant=0.7))
    for colour in rng.sample((rgb("a04bd8"), rgb("3f7df0"), rgb("e0529c"), rgb("2fb6c8")), 3):
        x, y = rng.uniform(100, 924), rng.uniform(100, 924)
        p.add(ellipse(x, y, rng.uniform(300, 440), rng.uniform(220, 320)), p.glow(colour, 0.5))
    heavens.stars(p, rng, 110, SIZE, pointed=0.22)
    colours = rng.sample(
        (rgb("f0944a"), rgb("5aa0f0"), rgb("d96a8c"), rgb("58c0a0"), rgb("e8c15a")), 2
    )
    side = rng.choice((-1, 1))
    _planet(
        p,
        rng,
        512 + side * rng.uniform(330, 400),
        rng.uniform(130, 220),
        rng.uniform(70, 96),
        colours[0],
        ringed=rng.random() < 0.6,
    )
    _planet(
        p,
        rng,
        512 - side * rng.uniform(400, 480),
        rng.uniform(800, 920),
        rng.uniform(90, 150),
        colours[1],
        ringed=False,
    )
    layers.tint = tint((0.96, 0.95, 1.0), (0, 0, 0.02))
    return Stage(ground=None)


@setting({"night": "night"})
def moon(layers: Layers) -> Stage:
    """The surface of the moon, the earth in a black sky."""
    p, rng = layers.back, layers.rng
    p.add(box(0, 0, SIZE, 760), p.fall(rgb("070a20"), rgb("141a44"), rgb("2a3168")))
    side = rng.choice((-1, 1))
    x, y, r = 512 + side * rng.uniform(270, 370), rng.uniform(160, 220), rng.uniform(84, 110)
    heavens.stars(p, rng, 64, 640, pointed=0.22, avoid=(x, y))
    p.add(ellipse(x, y, r * 1.5, r * 1.5), p.glow(rgb("7fc4ff"), 0.45, 0.5))
    p.add(ellipse(x, y, r, r), p.ball(rgb("8fd4ff"), rgb("3a8ee0"), rgb("1b3f96")))
    for dx, dy, rx, ry in (
        (-0.3, -0.25, 0.42, 0.26),
        (0.35, 0.2, 0.3, 0.4),
        (-0.35, 0.5, 0.25, 0.18),
    ):
        p.add(ellipse(x + dx * r, y + dy * r, rx * r, ry * r), rgb("6cc07a"), 0.9)
    grey = vary(rng, rgb("b9bccb"), 0.02)
    for level, depth in ((640, 0.32), (700, 0.0)):
        line = ridge(rng, level, level, 40, 3)
        tone = darker(grey, depth)
        p.add(area(line), p.fall(lighter(tone, 0.25), tone, darker(tone, 0.25)))
    spots = [(rng.uniform(0, SIZE), 750 + i * 34.0) for i in range(8)]
    for cx, cy in spots:
        wide = (cy - 640) * rng.uniform(0.25, 0.45)
        if abs(cx - 512) < 220:
            cx += 300 if cx > 512 else -300
        p.add(ellipse(cx, cy + 4, wide, wide * 0.3), lighter(grey, 0.3))
        p.add(
            ellipse(cx, cy, wide * 0.94, wide * 0.26), p.fall(darker(grey, 0.4), darker(grey, 0.14))
        )
    f = layers.front
    line = ridge(rng, 985, 985, 18, 3)
    f.add(area(line), f.fall(lighter(grey, 0.2), darker(grey, 0.2)))
    layers.tint = tint((0.95, 0.95, 1.0))
    layers.front_top = 930
    return Stage(ground=700 / SIZE, near=0.925, far=0.77, shadow=0.5)
