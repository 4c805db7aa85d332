"""Settings made by the weather and the hour: sunset, rain, fog."""

from __future__ import annotations

from training.data.scenes import heavens, nature, relief
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import (
    darker,
    lighter,
    mix,
    rgb,
    tint,
    vary,
)
from training.data.scenes.painting import (
    SIZE,
    area,
    box,
    ellipse,
    height_at,
    moves,
    polygon,
    ridge,
)
from training.data.scenes.relief import land, sides
from training.data.scenes.scene import Layers, setting
from training.data.scenes.water import glitter, water


@setting({"sunset": "sunset"})
def sunset(layers: Layers) -> Stage:
    """A great sun on the horizon, behind hills or over the sea."""
    p, light, rng = layers.back, layers.light, layers.rng
    top = rng.choice((rgb("5a3f9c"), rgb("7a4aa6"), rgb("c24a6a")))
    p.add(box(0, 0, SIZE, 760), p.fall(top, rgb("f0648a"), rgb("ff9a5a"), rgb("ffd67a")))
    at_sea = rng.random() < 0.5
    x, horizon = 512 + rng.uniform(-170, 170), 640.0
    r = rng.uniform(130, 165)
    heavens.sun(p, x, horizon - r * 0.35, r, rgb("ffb638"))
    for _ in range(5):
        cx, cy, half = rng.uniform(0, SIZE), rng.uniform(110, 420), rng.uniform(90, 190)
        tone = mix(rgb("ffe0b0"), rgb("d8548a"), cy / 500)
        for dx, dy, share in ((0, 0, 1), (rng.uniform(-70, 70), 20, 0.6)):
            x0, x1, y = cx + dx - half * share, cx + dx + half * share, cy + dy
            bow = moves((((x0 + x1) / 2, y - 26 * share), (x1, y)))
            p.add(
                f"M{moves(((x0, y),))}Q{bow}Q{moves((((x0 + x1) / 2, y + 12), (x0, y)))}Z",
                tone,
                0.6,
            )
    if at_sea:
        water(p, light, horizon, rgb("9a4f9a"))
        glitter(p, light, rng, x, (horizon, 1000), rgb("ffe0a0"))
        return Stage(ground=horizon / SIZE, near=0.92, far=0.78, sink=0.12, shadow=0.3, foam=0.4)
    relief.mountains(
        p, light, rng, 670, rng.uniform(110, 170), depth=0.3, colour=rgb("a0608f"), snow=False
    )
    for level, colour in ((655, rgb("a8507f")), (705, rgb("7d3f74"))):
        line = ridge(rng, level, level, 34, 3)
        p.add(area(line), p.fall(lighter(colour, 0.16), colour, darker(colour, 0.3)))
        if level < 700:
            for cx in sides(rng, 6, 0.2):
                nature.tree(
                    p,
                    light,
                    rng,
                    cx,
                    height_at(line, cx) + 10,
                    rng.uniform(70, 120),
                    depth=0.2,
                    leaf=rgb("8a4a80"),
                )
    nature.fringe(layers.front, rng, (rgb("8a4479"), rgb("4c2a58")), 74)
    layers.front_top = 900
    return Stage(ground=705 / SIZE, near=0.925, far=0.77)


@setting({"day": "overcast", "night": "night"})
def rain(layers: Layers) -> Stage:
    """Heavy clouds, streaks of rain, puddles."""
    p, light, rng = layers.back, layers.light, layers.rng
    p.add(box(0, 0, SIZE, 720), p.fall(*light.sky))
    p.add(box(0, -10, SIZE, 110), mix(light.cloud, light.sky[0], 0.3))
    for y, dark in ((150, 0.0), (84, 0.14)):
        x = -60.0
        while x < SIZE + 100:
            cloudy = mix(light.cloud, light.sky[0], dark * 2)
            r = rng.uniform(78, 118)
            p.add(
                ellipse(x, y + rng.uniform(-24, 24), r * 1.35, r),
                p.fall(lighter(cloudy, 0.1), darker(cloudy, 0.12)),
            )
            x += 112
    land(p, light, rng, 600, rgb("7fa3a0"), depth=0.45, rough=36)
    line = land(p, light, rng, 640, rgb("6f9c78"), depth=0.2, rough=18)
    for x in sides(rng, 6, 0.18):
        nature.tree(p, light, rng, x, height_at(line, x) + 12, rng.uniform(100, 160), depth=0.2)
    ground = vary(rng, rgb("83a878"), 0.02)
    land(p, light, rng, 695, ground, rough=10)
    shine = mix(light.sky[2], light.sky[1], 0.35)
    for middle, y, wide in (
        (210.0, 800, 130),
        (830.0, 770, 110),
        (560.0, 905, 300),
        (120.0, 960, 150),
        (940.0, 930, 130),
    ):
        x = middle + rng.uniform(-40, 40)
        p.add(ellipse(x, y, wide, wide * 0.17), p.fall(lighter(shine, 0.12), darker(shine, 0.16)))
        p.line(ellipse(x + wide * 0.3, y, wide * 0.25, wide * 0.045), lighter(shine, 0.5), 3, 0.7)
        p.line(
            ellipse(x - wide * 0.4, y + 3, wide * 0.16, wide * 0.03), lighter(shine, 0.5), 3, 0.7
        )
    slant = rng.uniform(-0.22, 0.22)
    for layer, columns, width, opacity in ((p, 9, 3.5, 0.4), (layers.front, 7, 4.5, 0.5)):
        path = []
        for i in range(columns * columns):
            left = (i % columns + rng.uniform(0, 1)) * SIZE / columns
            top = (i // columns + rng.uniform(0, 1)) * SIZE / columns
            length = rng.uniform(36, 66)
            path.append(f"M{moves(((left, top), (left + slant * length, top + length)))}")
        layer.line(
            "".join(path), rgb("e3eefb") if light.name != "night" else rgb("a9bdf0"), width, opacity
        )
    return Stage(ground=695 / SIZE, near=0.925, far=0.77, shadow=0.32)


@setting({"day": "overcast", "sunset": "sunset"})
def fog(layers: Layers) -> Stage:
    """Pale layers of firs that vanish in mist."""
    p, light, rng = layers.back, layers.light, layers.rng
    mist = rgb("dfe7ec") if light.name == "overcast" else rgb("ffd9c4")
    p.add(box(0, 0, SIZE, SIZE), p.fall(mix(mist, light.sky[0], 0.28), mist, lighter(mist, 0.4)))
    p.add(ellipse(512 + rng.choice((-1, 1)) * 250, 210, 190, 190), p.glow(rgb("ffffff"), 0.7, 0.15))
    wood = mix(rgb("5d7f86"), light.sky[0], 0.3)
    for level, fade, height, count in (
        (560, 0.8, 150, 15),
        (630, 0.58, 190, 11),
        (700, 0.34, 270, 6),
    ):
        line = ridge(rng, level, level, 24, 3)
        tone = mix(wood, mist, fade)
        for x in sides(rng, count, 0.03 if count > 9 else 0.24):
            tall, base = height * rng.uniform(0.75, 1.15), height_at(line, x) + 24
            parts = []
            for i in range(4):
                low = base - tall * (0.04 + 0.2 * i)
                half = tall * 0.2 * (1 - 0.2 * i)
                parts.append(polygon([(x - half, low), (x, low - tall * 0.38), (x + half, low)]))
            p.add("".join(parts), p.fall(tone, mix(tone, mist, 0.45)))
        p.add(area(line), p.fall(mix(tone, mist, 0.35), mix(tone, mist, 0.85)))
    ground = mix(rgb("9fb3a0"), mist, 0.45)
    p.add(area(ridge(rng, 735, 735, 14, 3)), p.fall(mix(ground, mist, 0.7), ground))
    for layer, bands, strength in (
        (p, ((640, 70), (720, 60)), 0.8),
        (layers.front, ((790, 64), (930, 90), (1010, 90)), 0.75),
    ):
        for y, height in bands:
            for x in (
                (rng.uniform(120, 420), rng.uniform(600, 900))
                if layer is p
                else (rng.uniform(250, 774),)
            ):
                layer.add(
                    ellipse(x, y + rng.uniform(-16, 16), rng.uniform(420, 600), height),
                    layer.glow(lighter(mist, 0.5), strength, 0.1),
                )
    layers.front_top = 700
    layers.tint = tint(
        (0.82, 0.82, 0.82),
        (0.1, 0.11, 0.12) if light.name == "overcast" else (0.14, 0.09, 0.07),
        0.15,
    )
    return Stage(ground=735 / SIZE, near=0.925, far=0.79, shadow=0.22)
