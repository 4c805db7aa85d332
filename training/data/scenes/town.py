"""Settings in a town: city, street."""

from __future__ import annotations

import random

from training.data.scenes import built, heavens, nature
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import Light, darker, lighter, rgb, vary
from training.data.scenes.painting import SIZE, Painting, Point, box, ellipse, moves, polygon
from training.data.scenes.scene import Layers, setting

FACADES = tuple(rgb(text) for text in ("f2b8a0", "f6d38a", "a9cbe8", "c9b6e4", "a8d8b9", "f0a8a0"))
TOWERS = tuple(rgb(text) for text in ("7f9fd0", "a3b5e0", "8fb8d8", "b5a8d8", "d8a8b8", "94c0c8"))


@setting()
def city(layers: Layers) -> Stage:
    """A skyline behind a park and a paved promenade."""
    p, light, rng = layers.back, layers.light, layers.rng
    heavens.sky(p, light, rng, 600, cloudy=2)
    for count, low, high, depth, panes in (
        (13, 200, 400, 0.55, False),
        (9, 170, 380, 0.25, True),
        (7, 90, 250, 0.06, True),
    ):
        for i in range(count):
            x = (i + rng.uniform(0.3, 0.7)) * SIZE / count
            edge = abs(x / SIZE - 0.5) * 2
            tall = rng.uniform(low, high) * (0.72 + 0.4 * edge if depth < 0.1 else 1)
            width = SIZE / count * rng.uniform(0.74, 0.98)
            colour = vary(rng, rng.choice(TOWERS))
            built.tower(p, light, rng, x, 650, (width, tall), colour, depth=depth, panes=panes)
    p.add(box(0, 632, SIZE, 80), p.fall(light.tone(rgb("8fcf6a")), light.tone(rgb("63ae55"))))
    for i in range(10):
        x = (i + rng.uniform(0.2, 0.8)) * SIZE / 10
        nature.bush(p, light, rng, x, 662, rng.uniform(70, 120), depth=0.05)
    paving = vary(rng, rgb("d7d2cf"), 0.02)
    p.add(
        box(0, 690, SIZE, 340),
        p.fall(
            light.tone(lighter(paving, 0.3)), light.tone(paving), light.tone(darker(paving, 0.12))
        ),
    )
    for x0, x1 in ((-300, 262), (120, 412), (512, 512), (904, 612), (1324, 762)):
        p.line(
            f"M{moves(((x0, 1030),))}L{moves(((x1, 692),))}",
            light.tone(darker(paving, 0.14)),
            3,
            0.5,
        )
    for y in (724, 775, 850, 960):
        p.line(f"M0 {y}H{SIZE}", light.tone(darker(paving, 0.14)), 3, 0.5)
    p.add(box(0, 684, SIZE, 14), light.tone(darker(paving, 0.2)))
    for x in (110 + rng.uniform(-40, 30), 914 + rng.uniform(-30, 40)):
        built.lamp_post(p, light, x, 716, 240)
    return Stage(ground=690 / SIZE, near=0.92, far=0.765, shadow=0.42)


def _terrace(p: Painting, light: Light, rng: random.Random, side: int, vanish: Point) -> None:
    """A row of house fronts along one side of a street, in perspective."""
    share, colours = 1.0, rng.sample(FACADES, 4)
    for i in range(4):
        further = share * (0.62, 0.6, 0.6, 0.55)[i]
        a, b = 512 + side * 570 * share, 512 + side * 570 * further
        height = rng.uniform(640, 760)
        wall = vary(rng, colours[i], 0.015)
        depth = 0.06 + i * 0.12

        def at(x: float, level: float) -> Point:
            """The point at a height of `level` px (at full scale) on the facade's plane."""
            scale = abs(x - 512) / 570
            return x, vanish[1] + (330 - level) * scale

        top = polygon([at(a, 0), at(a, height), at(b, height), at(b, 0)])
        p.add(
            top,
            p.across(
                *(
                    light.tone(c, depth)
                    for c in (
                        (wall, lighter(wall, 0.12)) if side > 0 else (lighter(wall, 0.12), wall)
                    )
                )
            ),
        )
        roof = darker(vary(rng, rgb("b5624e")), 0.1)
        p.add(
            polygon([at(a, height), at(a, height + 34), at(b, height + 34), at(b, height)]),
            light.tone(roof, depth),
        )
        for j in range(3):
            for level in (260, 430, 590):
                if level + 110 > height:
                    continue
                x0, x1 = (a + (b - a) * (j + k) / 3 for k in (0.25, 0.75))
                lit = light.name != "day" and rng.random() < (
                    0.65 if light.name == "night" else 0.35
                )
                pane = built.LIT if lit else light.tone(built.GLASS, depth)
                p.add(
                    polygon(
                        [at(x0, level), at(x0, level + 100), at(x1, level + 100), at(x1, level)]
                    ),
                    pane,
                )
        awning = rng.choice((rgb("e4574f"), rgb("3f9a8c"), rgb("f0a030"), rgb("5a7fd6")))
        x0, x1 = a + (b - a) * 0.1, a + (b - a) * 0.9
        p.add(
            polygon([at(x0, 20), at(x0, 150), at(x1, 150), at(x1, 20)]),
            built.LIT if light.name == "night" else light.tone(rgb("6f86a0"), depth),
        )
        p.add(
            polygon([at(x0, 140), at(x0, 205), at(x1, 205), at(x1, 140)]),
            p.fall(light.tone(lighter(awning, 0.15), depth), light.tone(awning, depth)),
        )
        share = further


@setting()
def street(layers: Layers) -> Stage:
    """A street between two rows of shops, in perspective."""
    p, light, rng = layers.back, layers.light, layers.rng
    vanish = (512.0, 560.0)
    heavens.sky(p, light, rng, 600, cloudy=1, disc=False)
    p.add(ellipse(512, 560, 330, 240), p.glow(light.sky[2], 0.8))
    for i in range(5):
        x = 440 + i * 36
        built.tower(
            p,
            light,
            rng,
            x,
            600,
            (34, rng.uniform(60, 120)),
            rng.choice(TOWERS),
            depth=0.6,
            panes=False,
        )
    asphalt, walk = rgb("767d90"), rgb("d3cdc8")
    p.add(box(0, 590, SIZE, 440), p.fall(light.tone(walk, 0.2), light.tone(walk)))
    for side in (-1, 1):
        _terrace(p, light, rng, side, vanish)
    edge = 590.0
    kerb = [(-90, SIZE), (450, edge), (574, edge), (1114, SIZE)]
    p.add(polygon(kerb), light.tone(darker(walk, 0.22)))
    lane = [(-50, SIZE), (455, edge), (569, edge), (1074, SIZE)]
    p.add(polygon(lane), p.fall(light.tone(lighter(asphalt, 0.3)), light.tone(asphalt)))
    near = 1.0
    while near > 0.1:
        far = near / 1.3
        y0, y1 = edge + 434 * near, edge + 434 * far
        p.add(
            polygon(
                [
                    (512 - 12 * near, y0),
                    (512 - 12 * far, y1),
                    (512 + 12 * far, y1),
                    (512 + 12 * near, y0),
                ]
            ),
            light.tone(rgb("fbf6e6")),
        )
        near /= 1.8
    for side in (-1, 1):
        for x, y, height in ((150, 660, 210), (395, 800, 400)):
            built.lamp_post(p, light, 512 + side * x, y, height)
    return Stage(ground=590 / SIZE, near=0.92, far=0.76, shadow=0.42)
