"""Settings among trees: forest, autumn, jungle."""

from __future__ import annotations

import random

from training.data.scenes import nature
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import (
    Colour,
    Light,
    darker,
    lighter,
    mix,
    rgb,
    vary,
)
from training.data.scenes.painting import (
    SIZE,
    Painting,
    box,
    curve,
    ellipse,
    moves,
    polygon,
)
from training.data.scenes.relief import land, sides
from training.data.scenes.scene import Layers, setting


def _trunks(
    layers: Layers, count: int, level: float, width: float, depth: float, clear: float
) -> None:
    p, light, rng = layers.back, layers.light, layers.rng
    for x in sides(rng, count, clear):
        wide = width * rng.uniform(0.75, 1.2)
        y = level + rng.uniform(-14, 22)
        shape = [(x - wide * 0.8, y), (x - wide * 0.42, y - 120), (x - wide * 0.38, -10)]
        shape += [(x + wide * 0.38, -10), (x + wide * 0.42, y - 120), (x + wide * 0.8, y)]
        bark = vary(rng, nature.BARK)
        fill = p.across(
            light.tone(lighter(bark, 0.16), depth), light.tone(darker(bark, 0.22), depth)
        )
        p.add(polygon(shape), fill)


def _canopy(
    p: Painting, light: Light, rng: random.Random, leaf: Colour, low: float, depth: float
) -> None:
    """Foliage that hangs in from above, lower at the sides; a dark row behind a light one."""
    for row, shade in ((1.0, 0.22), (0.72, 0.0)):
        tone = darker(leaf, shade)
        parts = [box(-20, -20, SIZE + 40, low * row * 0.5)]
        x = -50.0
        while x < SIZE + 60:
            edge = abs(x / SIZE - 0.5) * 2
            r = rng.uniform(44, 88) * (0.7 + low / 600)
            reach = low * row * (0.62 + 0.42 * edge) + rng.uniform(-26, 26)
            parts.append(ellipse(x, reach - r, r * 1.12, r))
            x += r * rng.uniform(0.8, 1.15)
        fill = p.fall(
            light.tone(darker(tone, 0.25), depth),
            light.tone(tone, depth),
            light.tone(lighter(tone, 0.14), depth),
        )
        p.add("".join(parts), fill)


def _woods(layers: Layers, leaf: Colour, floor: Colour, glow: Colour) -> None:
    """Trunks in three distances under a canopy, a clearing in the middle."""
    p, light, rng = layers.back, layers.light, layers.rng
    misty = mix(glow, leaf, 0.25)
    p.add(box(0, 0, SIZE, 760), p.fall(light.tone(leaf, 0.35), light.tone(misty), light.tone(glow)))
    p.add(ellipse(512, 480, 400, 300), p.glow(light.tone(lighter(glow, 0.6)), 0.75))
    _trunks(layers, 12, 650, 18, 0.5, 0.04)
    land(p, light, rng, 640, mix(floor, glow, 0.4), depth=0.12)
    _canopy(p, light, rng, mix(leaf, glow, 0.35), 300, 0.15)
    _trunks(layers, 6, 710, 34, 0.18, 0.22)
    for x in sides(rng, 6, 0.2):
        nature.bush(p, light, rng, x, 706, rng.uniform(120, 190), depth=0.1, leaf=leaf)
    land(p, light, rng, 692, floor, rough=18)
    _trunks(layers, 2, 800, 64, 0.0, 0.42)
    _canopy(p, light, rng, leaf, 190, 0.0)
    for x in sides(rng, 2, 0.4):
        nature.bush(p, light, rng, x, 812, rng.uniform(170, 220), leaf=darker(leaf, 0.05))


@setting()
def forest(layers: Layers) -> Stage:
    """A clearing among tall trees."""
    light, rng = layers.light, layers.rng
    leaf = vary(rng, rgb("4aa24c"))
    _woods(layers, leaf, rgb("84b555"), rgb("e4f2c0"))
    green = light.tone(rgb("6cb54a")), light.tone(rgb("2f7a3c"))
    nature.fringe(layers.front, rng, green, 86)
    layers.front_top = 880
    return Stage(ground=692 / SIZE, near=0.925, far=0.755)


@setting({"day": "day", "sunset": "sunset"})
def autumn(layers: Layers) -> Stage:
    """A wood in autumn, leaves falling."""
    light, rng = layers.light, layers.rng
    leaf = vary(rng, rng.choice((rgb("ef8a3a"), rgb("e5a33a"), rgb("e27c3c"))))
    _woods(layers, leaf, rgb("d99a55"), rgb("fff0cf"))
    leaves = (rgb("e8663c"), rgb("f4a53a"), rgb("d9483b"), rgb("f2c14e"))
    for layer, count, low in ((layers.back, 34, 760), (layers.front, 12, 30)):
        for _ in range(count):
            x, y, r = rng.uniform(0, SIZE), rng.uniform(low, SIZE), rng.uniform(9, 15)
            if layer is layers.front and abs(x - 512) < 300 and y < 940:
                continue
            turn = rng.uniform(-0.7, 0.7)
            tips = [
                (x - r, y + turn * r),
                (x, y - r * 0.7),
                (x + r, y - turn * r),
                (x, y + r * 0.7),
            ]
            layer.add(curve(tips, closed=True), light.tone(rng.choice(leaves)))
    return Stage(ground=692 / SIZE, near=0.925, far=0.755)


@setting()
def jungle(layers: Layers) -> Stage:
    """Dense rainforest with palms, broad leaves and vines."""
    p, light, rng = layers.back, layers.light, layers.rng
    leaf = vary(rng, rgb("2f9e5e"))
    glow = rgb("d3f3b8")
    p.add(box(0, 0, SIZE, 780), p.fall(light.tone(leaf, 0.3), light.tone(glow), light.tone(glow)))
    p.add(ellipse(512, 460, 380, 300), p.glow(light.tone(lighter(glow, 0.6)), 0.7))
    for x in sides(rng, 6, 0.12):
        nature.tree(p, light, rng, x, 690, rng.uniform(360, 460), depth=0.35, leaf=leaf)
    land(p, light, rng, 660, rgb("6cbf62"), depth=0.15)
    for x, lean in ((rng.uniform(60, 130), 70), (rng.uniform(890, 960), -70)):
        nature.palm(p, light, rng, x, 740, rng.uniform(470, 560), lean)
    land(p, light, rng, 700, rgb("58ad55"), rough=18)
    for x in sides(rng, 4, 0.34):
        nature.bush(p, light, rng, x, 770, rng.uniform(170, 240), leaf=leaf)
    for x in sides(rng, 6, 0.18):
        length = rng.uniform(120, 330)
        vine = f"M{moves(((x, -10),))}Q{moves(((x + 26, length / 2), (x - 8, length)))}"
        p.line(vine, light.tone(rgb("2c7a49")), 8)
    _canopy(p, light, rng, darker(leaf, 0.1), 170, 0.0)
    f = layers.front
    for side in (-1, 1):
        for _ in range(5):
            root = (512 + side * 540, SIZE + rng.uniform(-130, 30))
            tip = (512 + side * rng.uniform(300, 440), SIZE - rng.uniform(60, 210))
            dx, dy = tip[0] - root[0], tip[1] - root[1]
            upper = (root[0] + dx * 0.5 + dy * 0.3, root[1] + dy * 0.5 - dx * 0.3)
            lower = (root[0] + dx * 0.5 - dy * 0.3, root[1] + dy * 0.5 + dx * 0.3)
            path = f"M{moves((root,))}Q{moves((upper, tip))}Q{moves((lower, root))}Z"
            shade = vary(rng, rgb("37b068"), 0.03)
            f.add(path, f.fall(light.tone(lighter(shade, 0.2)), light.tone(darker(shade, 0.25))))
    layers.front_top = 760
    return Stage(ground=700 / SIZE, near=0.925, far=0.76)
