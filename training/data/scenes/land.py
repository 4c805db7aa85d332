"""Settings on open land: snow, meadow, garden, farm, mountain, desert, road."""

from __future__ import annotations

import random

from training.data.scenes import built, heavens, nature, relief
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import Colour, Light, darker, lighter, mix, rgb, vary
from training.data.scenes.painting import (
    SIZE,
    Painting,
    Point,
    area,
    blob,
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


def flakes(
    p: Painting, rng: random.Random, count: int, size: tuple[float, float], opacity: float
) -> None:
    """Falling snow on a jittered grid."""
    columns = round(count**0.5)
    path = []
    for i in range(columns):
        for j in range(columns):
            r = rng.uniform(*size)
            x = (i + rng.uniform(0.05, 0.95)) * SIZE / columns
            path.append(ellipse(x, (j + rng.uniform(0.05, 0.95)) * SIZE / columns, r, r))
    p.add("".join(path), rgb("ffffff"), opacity)


@setting()
def snow(layers: Layers) -> Stage:
    """Snow-covered hills with firs, snow falling."""
    p, light, rng = layers.back, layers.light, layers.rng
    white = rgb("f1f7ff")
    heavens.sky(p, light, rng, 560, cloudy=2)
    relief.mountains(p, light, rng, 600, rng.uniform(150, 230), depth=0.45, colour=rgb("8ea4cf"))
    land(p, light, rng, 560, rgb("d5e4f7"), depth=0.3)
    line = land(p, light, rng, 610, rgb("e3eefb"), depth=0.12)
    for x in sides(rng, 8, 0.16):
        height = rng.uniform(120, 190)
        nature.pine(p, light, rng, x, height_at(line, x) + 14, height, depth=0.18, snow=True)
    line = land(p, light, rng, 690, white, rough=24, fall=0.1)
    for x in sides(rng, 4, 0.36):
        height = rng.uniform(240, 340)
        nature.pine(p, light, rng, x, height_at(line, x) + 34, height, snow=True)
    for _ in range(4):
        x, y = rng.uniform(0, SIZE), rng.uniform(780, 980)
        p.add(ellipse(x, y, rng.uniform(110, 200), 13), light.tone(rgb("cddcf2")), 0.5)
    flakes(p, rng, 49, (2.5, 5), 0.8)
    f = layers.front
    drift = ridge(rng, 968, 968, 18, 3)
    f.add(area(drift), f.fall(light.tone(rgb("ffffff")), light.tone(rgb("dbe7f7"))))
    flakes(f, rng, 36, (4, 8), 0.9)
    return Stage(ground=690 / SIZE, near=0.925, far=0.75, sink=0.035, shadow=0.3)


@setting()
def meadow(layers: Layers) -> Stage:
    """Rolling grassland with a few flowers and far trees."""
    p, light, rng = layers.back, layers.light, layers.rng
    green = vary(rng, GRASS, 0.025)
    heavens.sky(p, light, rng, 580)
    land(p, light, rng, 560, mix(green, rgb("7fb6c4"), 0.5), depth=0.4, rough=46)
    line = land(p, light, rng, 610, mix(green, rgb("5aa868"), 0.4), depth=0.18, rough=34)
    for x in sides(rng, 5, 0.12):
        nature.tree(p, light, rng, x, height_at(line, x) + 12, rng.uniform(80, 130), depth=0.2)
    land(p, light, rng, 672, green, rough=26)
    tufts = light.tone(lighter(green, 0.1)), light.tone(darker(green, 0.25))
    for _ in range(22):
        x, y = rng.uniform(0, SIZE), rng.uniform(730, 1000)
        height = 16 + (y - 700) * 0.08
        if abs(x - 512) < 260 and rng.random() < 0.6:
            continue
        nature.grass(p, rng, tufts, [(x, y, height)])
        if rng.random() < 0.5:
            nature.flower(p, light, rng, x + 14, y, height * 1.5)
    blades = light.tone(lighter(green, 0.06)), light.tone(rgb("3f8f43"))
    nature.fringe(layers.front, rng, blades, 84)
    layers.front_top = 880
    return Stage(ground=672 / SIZE, near=0.925, far=0.74)


@setting()
def garden(layers: Layers) -> Stage:
    """A lawn between flower beds, with a hedge and a white fence."""
    p, light, rng = layers.back, layers.light, layers.rng
    green = vary(rng, rgb("86cf5e"), 0.02)
    heavens.sky(p, light, rng, 560, cloudy=2)
    for x in sides(rng, 6, 0.1):
        nature.tree(p, light, rng, x, 610, rng.uniform(190, 260), depth=0.22)
    p.add(box(0, 600, SIZE, 90), light.tone(rgb("3f8a48"), 0.1))
    for i in range(9):
        x = (i + 0.5) * SIZE / 8 - 64
        nature.bush(p, light, rng, x, 640, 200, leaf=rgb("4d9c4f"), depth=0.08)
    built.fence(p, light, 672, 92)
    p.add(
        box(0, 664, SIZE, 400),
        p.fall(light.tone(lighter(green, 0.15)), light.tone(darker(green, 0.18))),
    )
    for side in (-1, 1):
        spots = []
        for row in range(5):
            y = 720.0 + row * 62
            for _ in range(3 if row < 3 else 4):
                reach = rng.uniform(250 + row * 18, 520)
                spots.append((y + rng.uniform(-14, 14), 512 + side * reach, 62 + row * 14))
        bed = blob(rng, 512 + side * 480, 850, 220, 170, 8, 0.06)
        p.add(bed, p.fall(light.tone(rgb("6cb552")), light.tone(rgb("559a48"))))
        for y, x, height in sorted(spots):
            nature.flower(p, light, rng, x, y, height)
    f = layers.front
    blades = light.tone(green), light.tone(rgb("3f8f43"))
    nature.fringe(f, rng, blades, 54)
    for x in sides(rng, 6, 0.38):
        nature.flower(f, light, rng, x, SIZE + 10, rng.uniform(100, 150))
    layers.front_top = 820
    return Stage(ground=672 / SIZE, near=0.925, far=0.75)


@setting()
def farm(layers: Layers) -> Stage:
    """A red barn and a silo behind fields in rows."""
    p, light, rng = layers.back, layers.light, layers.rng
    heavens.sky(p, light, rng, 560)
    land(p, light, rng, 560, rgb("8fbf78"), depth=0.35, rough=34)
    field = vary(rng, rng.choice((rgb("e8c65a"), rgb("b6cf5e"))), 0.02)
    top = 622.0
    p.add(box(0, top, SIZE, 120), p.fall(light.tone(field, 0.15), light.tone(field)))
    vanish = 512.0
    for i in range(-16, 17):
        a, b = vanish + i * 44, vanish + i * 104
        if i % 2:
            stripe = polygon([(a, top), (a + 44, top), (b + 104, top + 120), (b, top + 120)])
            p.add(stripe, light.tone(darker(field, 0.12)), 0.8)
    side = rng.choice((-1, 1))
    x = 512 + side * rng.uniform(290, 330)
    silo = x - side * 150
    body = p.across(light.tone(rgb("dfe5ec")), light.tone(rgb("9fabb9")))
    p.add(box(silo - 36, 430, 72, 230), body)
    p.add(
        f"M{moves(((silo - 36, 432),))}A36 36 0 0 1 {moves(((silo + 36, 432),))}Z",
        light.tone(rgb("c9d2dc")),
    )
    built.barn(p, light, x, 660, 250)
    for tree_x in (512 - side * 380, 512 - side * 460):
        nature.tree(p, light, rng, tree_x, 660, rng.uniform(190, 250))
    lawn = vary(rng, rgb("86c25a"))
    land(p, light, rng, 690, lawn, rough=10)
    built.fence(p, light, 736, 70, colour=rgb("d9b48a"), step=128, pointed=False)
    for x in sides(rng, 2, 0.4):
        y, r = 830 + rng.uniform(-20, 30), 64
        straw = rgb("f0cd6a")
        p.add(
            box(x - r, y - r * 1.1, r * 2, r * 1.2, r * 0.5),
            p.fall(light.tone(lighter(straw, 0.2)), light.tone(darker(straw, 0.18))),
        )
        p.line(
            f"M{moves(((x - r * 0.7, y - r * 0.65),))}H{x + r * 0.7:.1f}",
            light.tone(darker(straw, 0.22)),
            6,
            0.6,
        )
    nature.fringe(layers.front, rng, (light.tone(rgb("f3d36e")), light.tone(rgb("b98d3e"))), 92)
    layers.front_top = 880
    return Stage(ground=690 / SIZE, near=0.925, far=0.765)


@setting()
def mountain(layers: Layers) -> Stage:
    """High snow-capped peaks above a fir line and an alpine lawn."""
    p, light, rng = layers.back, layers.light, layers.rng
    heavens.sky(p, light, rng, 600, cloudy=2)
    stone = vary(rng, rgb("6d7fae"), 0.03)
    relief.mountains(p, light, rng, 640, rng.uniform(330, 390), depth=0.4, colour=stone, count=2)
    relief.mountains(p, light, rng, 660, rng.uniform(240, 300), depth=0.1, colour=stone, count=3)
    p.add(box(-10, 650, SIZE + 20, 90), light.tone(rgb("5f9f6a"), 0.3))
    line = land(p, light, rng, 640, rgb("5f9f6a"), depth=0.15, rough=24)
    for i in range(22):
        x = (i + rng.uniform(0, 1)) * SIZE / 22
        nature.pine(p, light, rng, x, height_at(line, x) + 22, rng.uniform(56, 96), depth=0.14)
    land(p, light, rng, 700, rgb("8cc063"), rough=22)
    for x in sides(rng, 4, 0.34):
        relief.rock(p, light, rng, x, rng.uniform(770, 860), rng.uniform(70, 130))
    for x in sides(rng, 2, 0.43):
        nature.pine(p, light, rng, x, 800, rng.uniform(250, 320))
    nature.fringe(layers.front, rng, (light.tone(rgb("8cc063")), light.tone(rgb("4b8a46"))), 60)
    layers.front_top = 920
    return Stage(ground=700 / SIZE, near=0.925, far=0.76)


@setting()
def desert(layers: Layers) -> Stage:
    """Dunes with a lit and a shaded side, a mesa, cacti."""
    p, light, rng = layers.back, layers.light, layers.rng
    sand = vary(rng, rgb("f2bd6f"), 0.015)
    heavens.sky(p, light, rng, 590, cloudy=1)
    red = rgb("cf7d55")
    for x in sides(rng, 2, 0.22):
        wide, tall = rng.uniform(150, 230), rng.uniform(90, 150)
        shape = [
            (x - wide * 0.75, 610),
            (x - wide * 0.5, 610 - tall),
            (x + wide * 0.5, 610 - tall),
            (x + wide * 0.75, 610),
        ]
        p.add(polygon(shape), p.fall(light.tone(lighter(red, 0.12), 0.25), light.tone(red, 0.4)))
    for level, depth in ((610, 0.3), (655, 0.12), (720, 0.0)):
        _dunes(p, light, rng, level, sand, depth)
        if depth == 0.12:
            for x in sides(rng, 3, 0.24):
                nature.cactus(p, light, rng, x, level + 44, rng.uniform(90, 130), 0.12)
    for x in sides(rng, 2, 0.42):
        nature.cactus(p, light, rng, x, rng.uniform(800, 840), rng.uniform(230, 300))
    for _ in range(4):
        y = rng.uniform(800, 960)
        line = ridge(rng, y, y, 10, 3)
        p.line(curve(line), light.tone(darker(sand, 0.14)), 5, 0.45)
    f = layers.front
    f.add(
        area(ridge(rng, 975, 985, 14, 3)), f.fall(light.tone(lighter(sand, 0.2)), light.tone(sand))
    )
    layers.front_top = 930
    return Stage(ground=705 / SIZE, near=0.925, far=0.76, sink=0.015)


def _dunes(
    p: Painting, light: Light, rng: random.Random, level: float, sand: Colour, depth: float
) -> None:
    """A row of dunes, each with a lit flank, a shaded flank and a curved crest between them."""
    bottom = level + 130 if depth else SIZE
    lit, middle = light.tone(lighter(sand, 0.26), depth), light.tone(sand, depth)
    dark = light.tone(mix(sand, rgb("b5654a"), 0.42), depth)
    way = rng.choice((-1, 1))
    spots = [SIZE * (i + rng.uniform(0.2, 0.8)) / 2 for i in range(-1, 3)]
    p.add(
        box(-10, level, SIZE + 20, bottom - level),
        p.fall(middle, light.tone(darker(sand, 0.1), depth)),
    )
    for x in spots if way > 0 else reversed(spots):
        tall, half = rng.uniform(50, 110), rng.uniform(300, 420)
        top, foot = (x, level - tall), level + 60
        a, b = (x - way * half, foot), (x + way * half * 0.8, foot)
        rise = moves(((x - way * half * 0.45, foot - 6), (x - way * half * 0.2, top[1] + 8), top))
        drop = moves(((x + way * half * 0.16, top[1] + 14), (x + way * half * 0.4, foot - 8), b))
        end = (x + way * half * 0.06, foot)
        crest = moves(((x + way * half * 0.26, level + 20), (x - way * half * 0.02, level), top))
        p.add(f"M{moves((a,))}C{rise}C{drop}Z", p.fall(lit, middle))
        p.add(f"M{moves((top,))}C{drop}L{moves((end,))}C{crest}Z", p.fall(dark, middle))


@setting()
def road(layers: Layers) -> Stage:
    """A country road that runs to the horizon between fields."""
    p, light, rng = layers.back, layers.light, layers.rng
    green = vary(rng, GRASS, 0.02)
    heavens.sky(p, light, rng, 580)
    land(p, light, rng, 572, rgb("86b894"), depth=0.4, rough=50)
    line = land(p, light, rng, 606, rgb("74b162"), depth=0.2, rough=18)
    for x in sides(rng, 5, 0.16):
        nature.tree(p, light, rng, x, height_at(line, x) + 12, rng.uniform(90, 150), depth=0.15)
    top = 640.0
    p.add(
        box(0, top, SIZE, 400),
        p.fall(light.tone(lighter(green, 0.15)), light.tone(darker(green, 0.15))),
    )
    asphalt, middle = rgb("6f7789"), 512 + rng.uniform(-30, 30)

    def lane(share: float, width: float) -> list[Point]:
        """A strip of the road: centre and width as shares of its half width."""
        near, far = 620.0, 34.0
        a, b = share - width, share + width
        return [
            (512 + a * near, SIZE + 10),
            (middle + a * far, top),
            (middle + b * far, top),
            (512 + b * near, SIZE + 10),
        ]

    p.add(polygon(lane(0, 1.0)), p.fall(light.tone(lighter(asphalt, 0.2)), light.tone(asphalt)))
    for share in (-0.92, 0.92):
        p.add(polygon(lane(share, 0.018)), light.tone(rgb("fbfaf2")))
    depth = 1.0
    while depth < 12:
        near, far = 1 / depth, 1 / (depth * 1.32)
        y0, y1 = top + (SIZE + 10 - top) * near, top + (SIZE + 10 - top) * far
        x0, x1 = middle + (512 - middle) * near, middle + (512 - middle) * far
        a, b = 15 * near + 1, 15 * far + 1
        p.add(
            polygon([(x0 - a, y0), (x1 - b, y1), (x1 + b, y1), (x0 + a, y0)]),
            light.tone(rgb("ffe08a")),
        )
        depth *= 1.85
    for side in (-1, 1):
        nature.tree(p, light, rng, 512 + side * rng.uniform(440, 500), 760, rng.uniform(270, 340))
    return Stage(ground=640 / SIZE, near=0.92, far=0.73)
