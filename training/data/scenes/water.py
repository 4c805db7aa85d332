"""Settings on and by the water: sea, beach, lake, river."""

from __future__ import annotations

import math
import random

from training.data.scenes import heavens, nature, relief
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import Colour, Light, darker, lighter, mix, rgb, vary
from training.data.scenes.painting import (
    SIZE,
    Painting,
    Point,
    area,
    box,
    curve,
    ellipse,
    height_at,
    moves,
    polygon,
    ridge,
)
from training.data.scenes.relief import GRASS, land, sides
from training.data.scenes.scene import Layers, setting

BLUE = rgb("2f8fdc")


def swell(rng: random.Random, level: float, height: float, length: float) -> list[Point]:
    """The crest line of a row of waves across the frame."""
    shift = rng.uniform(0, length)
    points = []
    x = -length - shift
    while x < SIZE + length:
        points += [(x, level), (x + length * 0.5, level - height * rng.uniform(0.8, 1.1))]
        x += length
    return points


def water(p: Painting, light: Light, top: float, colour: Colour, bottom: float = SIZE) -> None:
    """A surface of water between two levels, pale at the horizon."""
    shine = light.sky[2] if light.name == "day" else light.sky[1]
    pale = mix(light.tone(lighter(colour, 0.3)), shine, 0.5)
    p.add(
        box(-10, top, SIZE + 20, bottom - top),
        p.fall(pale, light.tone(colour), light.tone(darker(colour, 0.18))),
    )


def glints(
    p: Painting,
    light: Light,
    rng: random.Random,
    count: int,
    span: tuple[float, float],
    opacity: float,
) -> None:
    """Short level highlights on water, longer towards the viewer."""
    top, bottom = span
    for _ in range(count):
        share = rng.random()
        y = top + (bottom - top) * share
        half = (10 + 34 * share) * rng.uniform(0.7, 1.3)
        x = rng.uniform(0, SIZE)
        bend = f"M{moves(((x - half, y),))}Q{moves(((x, y - 3 - 5 * share), (x + half, y)))}"
        p.line(bend, mix(light.sky[2], rgb("ffffff"), 0.4), 2.5 + 3 * share, opacity)


def glitter(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    span: tuple[float, float],
    colour: Colour,
) -> None:
    """The broken reflection of a low sun or moon below it."""
    top, bottom = span
    path = []
    y = top + 6
    while y < bottom:
        share = (y - top) / (bottom - top)
        half = (70 + 40 * share) * rng.uniform(0.55, 1.0) * (1 - 0.35 * share)
        path.append(box(x + rng.uniform(-12, 12) - half, y, half * 2, 7 + 5 * share, 8))
        y += 17 + 16 * share
    p.add("".join(path), colour, 0.55)


@setting()
def sea(layers: Layers) -> Stage:
    """Open water with rows of waves."""
    p, light, rng = layers.back, layers.light, layers.rng
    blue = vary(rng, BLUE, 0.03)
    x, _ = heavens.sky(p, light, rng, 520, cloudy=3)
    water(p, light, 510, blue)
    dusk = 0.3 if light.name == "sunset" else 0.0
    rows = (
        (560, 9, 90, 0.32),
        (615, 13, 130, 0.2),
        (690, 20, 180, 0.08),
        (785, 28, 240, 0.0),
        (890, 36, 300, -0.12),
    )
    for level, height, length, pale in rows:
        colour = lighter(blue, pale) if pale >= 0 else darker(blue, -pale)
        line = swell(rng, level, height, length)
        colour = mix(colour, rgb("f08a9c"), dusk * (1.2 - (level - 560) / 330))
        crest = light.tone(lighter(colour, 0.22))
        p.add(area(line), p.fall(crest, light.tone(colour), light.tone(darker(colour, 0.1))))
        p.line(curve(line), light.tone(lighter(colour, 0.55)), 2 + height * 0.12, 0.6)
    if light.name == "day":
        glints(p, light, rng, 12, (600, 860), 0.45)
    else:
        glitter(p, light, rng, x, (516, 800), mix(light.sky[2], rgb("fff2c8"), 0.6))
    f = layers.front
    line = swell(rng, 985, 30, 280)
    deep = darker(blue, 0.14)
    f.add(area(line), f.fall(light.tone(lighter(deep, 0.25)), light.tone(deep)), 0.94)
    f.line(curve(line), light.tone(lighter(deep, 0.65)), 6, 0.8)
    layers.front_top = 920
    return Stage(ground=510 / SIZE, near=0.93, far=0.7, sink=0.13, shadow=0.3, foam=0.6)


@setting()
def beach(layers: Layers) -> Stage:
    """Sand, surf and a palm."""
    p, light, rng = layers.back, layers.light, layers.rng
    sand, blue = vary(rng, rgb("f7dca0"), 0.015), vary(rng, rgb("2fb0d8"), 0.02)
    heavens.sky(p, light, rng, 500, cloudy=3)
    water(p, light, 490, blue, 720)
    for level, height, length in ((535, 6, 100), (575, 8, 140)):
        line = swell(rng, level, height, length)
        p.line(curve(line), light.tone(lighter(blue, 0.6)), 4, 0.6)
    shore = ridge(rng, 640, 640, 22, 3)
    foam = [(x, y - 26) for x, y in shore]
    p.add(area(foam), light.tone(rgb("ffffff")), 0.85)
    wet = [(x, y - 6) for x, y in shore]
    p.add(area(wet), p.fall(light.tone(darker(sand, 0.16)), light.tone(sand)))
    dry = [(x, y + 34 + rng.uniform(-6, 6)) for x, y in shore]
    p.add(
        area(dry),
        p.fall(light.tone(lighter(sand, 0.25)), light.tone(sand), light.tone(darker(sand, 0.1))),
    )
    side = rng.choice((-1, 1))
    nature.palm(
        p, light, rng, 512 + side * 455, 780, rng.uniform(500, 570), -side * rng.uniform(50, 110)
    )
    if rng.random() < 0.6:
        nature.palm(p, light, rng, 512 + side * 500, 800, rng.uniform(360, 420), -side * 20)
    for _ in range(5):
        x, y = 512 + rng.choice((-1, 1)) * rng.uniform(260, 500), rng.uniform(780, 980)
        p.add(ellipse(x, y, rng.uniform(40, 90), 7), light.tone(darker(sand, 0.12)), 0.5)
    x, y = 512 - side * rng.uniform(330, 450), rng.uniform(830, 930)
    points = []
    for i in range(10):
        r, angle = (44, 18)[i % 2], math.pi * i / 5 + 0.3
        points.append((x + r * math.cos(angle), y + r * 0.62 * math.sin(angle)))
    p.add(curve(points, closed=True), p.fall(light.tone(rgb("ff9a76")), light.tone(rgb("ee6a58"))))
    f = layers.front
    f.add(
        area(ridge(rng, 985, 985, 14, 3)), f.fall(light.tone(lighter(sand, 0.3)), light.tone(sand))
    )
    layers.front_top = 940
    return Stage(ground=640 / SIZE, near=0.925, far=0.74, sink=0.015, shadow=0.38)


@setting()
def lake(layers: Layers) -> Stage:
    """Calm water that mirrors hills and firs, reeds on the near bank."""
    p, light, rng = layers.back, layers.light, layers.rng
    blue = vary(rng, rgb("4fa6d8"), 0.03)
    heavens.sky(p, light, rng, 540, cloudy=2)
    relief.mountains(p, light, rng, 560, rng.uniform(200, 270), depth=0.38, colour=rgb("7d92bd"))
    line = land(p, light, rng, 545, rgb("5f9f6a"), depth=0.2, rough=16)
    firs = [(x, rng.uniform(70, 130)) for x in sides(rng, 14, 0.06)]
    for x, height in firs:
        nature.pine(p, light, rng, x, height_at(line, x) + 16, height, depth=0.15)
    water(p, light, 590, blue)
    for x, height in firs:
        mirror = [(x - height * 0.22, 592), (x, 592 + height * 0.9), (x + height * 0.22, 592)]
        p.add(
            polygon(mirror),
            p.fade([(0, light.tone(rgb("2f8f63")), 0.4), (1, light.tone(rgb("2f8f63")), 0.0)]),
        )
    p.add(box(-10, 584, SIZE + 20, 9, 4), light.tone(rgb("8fbf78")))
    glints(p, light, rng, 16, (630, 940), 0.5)
    f = layers.front
    for x in sides(rng, 12, 0.37):
        height, lean = rng.uniform(90, 190), rng.uniform(-14, 14)
        f.line(
            f"M{moves(((x, SIZE + 10),))}L{moves(((x + lean, SIZE - height),))}",
            light.tone(rgb("4c9a4e")),
            7,
        )
        if rng.random() < 0.6:
            f.line(f"M{moves(((x + lean, SIZE - height),))}v-34", light.tone(rgb("8a5638")), 17)
    nature.fringe(f, rng, (light.tone(rgb("6cb54a")), light.tone(rgb("2f7a3c"))), 50)
    layers.front_top = 780
    return Stage(ground=590 / SIZE, near=0.92, far=0.72, sink=0.1, shadow=0.28, foam=0.55)


@setting()
def river(layers: Layers) -> Stage:
    """A river that winds through a meadow towards the viewer."""
    p, light, rng = layers.back, layers.light, layers.rng
    green, blue = vary(rng, GRASS, 0.02), vary(rng, rgb("3fa3e0"), 0.02)
    heavens.sky(p, light, rng, 560)
    p.add(box(-10, 600, SIZE + 20, 60), light.tone(rgb("86b894"), 0.4))
    land(p, light, rng, 550, rgb("86b894"), depth=0.4, rough=50)
    land(p, light, rng, 600, rgb("74b162"), depth=0.2, rough=14)
    top = 630.0
    p.add(box(0, top, SIZE, 400), p.fall(light.tone(lighter(green, 0.18)), light.tone(green)))
    way = rng.choice((-1, 1))
    middle = [
        (512 + way * 150, top),
        (512 - way * 60, 680),
        (512 + way * 60, 760),
        (512, 900),
        (512, SIZE + 30),
    ]
    half = (18, 62, 220, 420, 560)
    for grow, colours in (
        (1.1, (rgb("d9c48f"), rgb("c2a56b"))),
        (1.0, (lighter(blue, 0.35), blue)),
    ):
        left = [(x - w * grow, y) for (x, y), w in zip(middle, half, strict=True)]
        right = [(x + w * grow, y) for (x, y), w in zip(middle, half, strict=True)]
        outline = f"{curve(left)}L{curve(right[::-1])[1:]}Z"
        p.add(outline, p.fall(*(light.tone(colour) for colour in colours)))
    for x, y, wide in (
        (512 - way * 10, 740, 60),
        (470.0, 810, 90),
        (600.0, 850, 100),
        (420.0, 930, 130),
        (640.0, 960, 120),
    ):
        rise = moves(((wide / 2, -16), (wide, 0)))
        flow = f"M{moves(((x - wide, y),))}q{rise}t{moves(((wide, 0),))}"
        p.line(flow, mix(light.tone(lighter(blue, 0.6)), light.sky[2], 0.3), 6, 0.6)
    for x in sides(rng, 4, 0.28):
        nature.tree(p, light, rng, x, 690, rng.uniform(180, 250), depth=0.06)
    for side in (-1, 1):
        x = 512.0 + side * 490
        for y, width in ((800, 90), (850, 70)):
            relief.rock(p, light, rng, x - side * rng.uniform(0, 60), y, width)
    blades = light.tone(lighter(green, 0.05)), light.tone(rgb("3f8f43"))
    spots = [(x, SIZE + 10, rng.uniform(80, 140)) for x in sides(rng, 14, 0.42)]
    nature.grass(layers.front, rng, blades, spots)
    layers.front_top = 850
    return Stage(ground=630 / SIZE, near=0.93, far=0.79, sink=0.1, shadow=0.28, foam=0.55)
