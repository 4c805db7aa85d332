"""Settings under a roof: room, kitchen, table, stage."""

from __future__ import annotations

import random

from training.data.scenes import heavens
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import (
    Colour,
    Light,
    darker,
    lighter,
    rgb,
    tint,
    vary,
)
from training.data.scenes.painting import (
    SIZE,
    Painting,
    box,
    ellipse,
    moves,
    polygon,
)
from training.data.scenes.scene import Layers, setting


def _window(
    p: Painting, light: Light, rng: random.Random, x: float, y: float, width: float, height: float
) -> None:
    """A window with a sill and curtains; (x, y) is its top left corner."""
    frame = light.tone(rgb("ffffff"))
    p.add(box(x - 14, y - 14, width + 28, height + 28, 10), frame)
    p.add(box(x, y, width, height, 4), p.fall(*light.sky))
    if light.name == "night":
        p.add(
            heavens.star(x + width * 0.3, y + height * 0.3, 12)
            + heavens.star(x + width * 0.65, y + height * 0.2, 9),
            rgb("fff6d8"),
        )
    else:
        heavens.cloud(p, light, rng, x + width * 0.36, y + height * 0.42, width * 0.4)
    p.add(box(x, y + height * 0.8, width, height * 0.2), light.tone(rgb("7cc354"), 0.15))
    for bar in (box(x + width / 2 - 6, y, 12, height), box(x, y + height * 0.46, width, 12)):
        p.add(bar, frame)
    cloth = vary(rng, rng.choice((rgb("f28f7a"), rgb("7fa8e0"), rgb("f3c15f"), rgb("86c29a"))))
    for side in (-1, 1):
        edge, inner = (x - 44, x + width * 0.24) if side < 0 else (x + width + 44, x + width * 0.76)
        foot = moves(((edge, y + height + 46),))
        inside = moves(((inner, y + height * 0.5), (edge - side * 38, y + height + 46)))
        drape = f"M{moves(((edge, y - 30), (inner, y - 30)))}Q{inside}L{foot}Z"
        p.add(
            drape,
            p.across(
                light.tone(lighter(cloth, 0.18)), light.tone(cloth), light.tone(darker(cloth, 0.12))
            ),
        )
    p.line(f"M{moves(((x - 66, y - 32),))}H{x + width + 66:.1f}", light.tone(rgb("8a5a3c")), 12)
    p.add(box(x - 26, y + height + 12, width + 52, 18, 6), light.tone(rgb("ece6dd")))


def _boards(p: Painting, light: Light, top: float, wood: Colour) -> None:
    """Floor boards that run towards the viewer."""
    p.add(
        box(0, top, SIZE, SIZE - top),
        p.fall(light.tone(darker(wood, 0.06)), light.tone(lighter(wood, 0.14))),
    )
    for i in range(-9, 10):
        a, b = 512 + (i + 0.5) * 62, 512 + (i + 0.5) * 150
        p.line(
            f"M{moves(((a, top),))}L{moves(((b, SIZE + 10),))}",
            light.tone(darker(wood, 0.16)),
            3.5,
            0.7,
        )


def _indoors(layers: Layers) -> None:
    """A gentler tint: lamps are on at night, so subjects keep most of their light."""
    if layers.light.name == "night":
        layers.tint = tint((0.94, 0.84, 0.74), (0.0, 0.0, 0.01), 0.04)


def _interior(light: Light) -> Light:
    """The night's light indoors, where a lamp is on."""
    if light.name != "night":
        return light
    return Light(
        light.name,
        light.sky,
        light.haze,
        light.cloud,
        (0.84, 0.66, 0.5),
        (10, 6, 16),
        light.tint,
        light.shade,
    )


@setting({"day": "day", "night": "night"})
def room(layers: Layers) -> Stage:
    """A living room: window, framed picture, lamp, plant, rug on boards."""
    p, rng = layers.back, layers.rng
    light = _interior(layers.light)
    wall = vary(rng, rng.choice((rgb("f6dfc0"), rgb("cfe3ee"), rgb("d9e8cf"), rgb("f3d3cf"))))
    p.add(box(0, 0, SIZE, 700), p.fall(light.tone(lighter(wall, 0.22)), light.tone(wall)))
    side = rng.choice((-1, 1))
    _window(p, light, rng, 512 - side * 250 - 125, 130, 250, 300)
    art = 512 + side * 190
    p.add(box(art - 88, 170, 176, 140, 8), light.tone(rgb("a8703f")))
    p.add(
        box(art - 72, 186, 144, 108, 4),
        p.fall(light.tone(rgb("bfe3f5")), light.tone(rgb("fdeccb"))),
    )
    p.add(
        polygon(
            [(art - 72, 294), (art - 24, 226), (art + 10, 268), (art + 34, 240), (art + 72, 294)]
        ),
        light.tone(rgb("6fae8a")),
    )
    wood = vary(rng, rng.choice((rgb("d29a62"), rgb("c48a58"), rgb("e0b27c"))))
    top = 680.0
    _boards(p, light, top, wood)
    p.add(box(0, top - 30, SIZE, 32), light.tone(rgb("fbf6ee")))
    p.add(box(0, top - 2, SIZE, 8), light.tone(darker(wood, 0.3)), 0.6)
    x = 512 + side * 430
    p.line(f"M{moves(((x, 730),))}V330", light.tone(rgb("6a5648")), 12)
    p.add(ellipse(x, 734, 58, 14), light.tone(rgb("6a5648")))
    if light.name == "night":
        p.add(ellipse(x, 320, 300, 300), p.glow(rgb("ffdf8c"), 0.6, 0.05))
    shade = rgb("ffe9b0") if light.name == "night" else light.tone(rgb("f7d58a"))
    p.add(
        polygon([(x - 46, 240), (x + 46, 240), (x + 84, 366), (x - 84, 366)]),
        p.fall(lighter(shade, 0.3), shade),
    )
    plant = 512 - side * 440
    for lean in (-0.75, -0.4, 0.0, 0.4, 0.75):
        tip = (plant + lean * 130, 560 + abs(lean) * 60)
        root = (plant, 690)
        upper = moves(((plant + lean * 30 - 30, 610), tip))
        lower = moves(((plant + lean * 90 + 26, 640), root))
        leaf = f"M{moves((root,))}Q{upper}Q{lower}Z"
        p.add(leaf, p.fall(light.tone(rgb("6cc070")), light.tone(rgb("2f8f58"))))
    pot = rgb("d9764a")
    p.add(
        polygon([(plant - 56, 676), (plant + 56, 676), (plant + 40, 770), (plant - 40, 770)]),
        p.across(light.tone(lighter(pot, 0.18)), light.tone(darker(pot, 0.15))),
    )
    rug = vary(rng, rng.choice((rgb("7f9fd8"), rgb("e08a7a"), rgb("8abfa3"), rgb("c79ad0"))))
    for scale, colour in ((1.0, rug), (0.84, lighter(rug, 0.4)), (0.76, lighter(rug, 0.1))):
        p.add(ellipse(512, 880, 430 * scale, 108 * scale), light.tone(colour))
    _indoors(layers)
    return Stage(ground=680 / SIZE, near=0.915, far=0.8, shadow=0.4)


@setting({"day": "day", "night": "night"})
def kitchen(layers: Layers) -> Stage:
    """A kitchen: tiles, cupboards, a shelf; subjects stand on the worktop."""
    p, rng = layers.back, layers.rng
    light = _interior(layers.light)
    tile = vary(rng, rng.choice((rgb("d8eef0"), rgb("fbeed6"), rgb("e3ecd6"))))
    p.add(box(0, 0, SIZE, 740), p.fall(light.tone(tile), light.tone(darker(tile, 0.05))))
    for i in range(1, 8):
        p.line(f"M{i * 128} 280V700", light.tone(lighter(tile, 0.6)), 5)
    for y in range(300, 700, 100):
        p.line(f"M0 {y}H{SIZE}", light.tone(lighter(tile, 0.6)), 5)
    front = vary(rng, rng.choice((rgb("7fb6c9"), rgb("f0b07a"), rgb("9ac29a"), rgb("e5938a"))))
    p.add(box(0, 0, SIZE, 250), light.tone(darker(front, 0.2)))
    for i in range(4):
        p.add(
            box(i * 256 + 8, -20, 240, 262, 12),
            p.fall(light.tone(lighter(front, 0.12)), light.tone(front)),
        )
        p.add(box(i * 256 + (206 if i % 2 == 0 else 34), 176, 16, 44, 8), light.tone(rgb("fff4dc")))
    side = rng.choice((-1, 1))
    x = 512 + side * 360
    p.add(
        box(x - 150, 470, 300, 18, 6), p.fall(light.tone(rgb("c98f58")), light.tone(rgb("9c6a3c")))
    )
    for i, colour in enumerate(
        rng.sample((rgb("e4574f"), rgb("f3c15f"), rgb("5a9fd6"), rgb("7fb86a"), rgb("f6efe2")), 3)
    ):
        jar = x - 96 + i * 96
        p.add(
            box(jar - 32, 392, 64, 78, 14),
            p.across(
                light.tone(lighter(colour, 0.3)),
                light.tone(colour),
                light.tone(darker(colour, 0.15)),
            ),
        )
        p.add(box(jar - 28, 378, 56, 18, 6), light.tone(rgb("8a5a3c")))
    pan = 512 - side * 370
    p.line(f"M{moves(((pan - 110, 330),))}h220", light.tone(rgb("6a5648")), 10)
    for i, r in enumerate((38, 50)):
        cx = pan - 60 + i * 120
        p.line(f"M{moves(((cx, 330),))}v70", light.tone(rgb("4a5266")), 12)
        p.add(
            ellipse(cx, 400 + r, r, r),
            p.ball(light.tone(rgb("9aa3b5")), light.tone(rgb("6a7387")), light.tone(rgb("3f475a"))),
        )
    x = 512 - side * 110
    if light.name == "night":
        p.add(ellipse(x, 360, 340, 320), p.glow(rgb("ffe3a0"), 0.7, 0.05))
    p.line(f"M{x} 240V300", light.tone(rgb("6a5648")), 7)
    shade = rgb("ffe08a") if light.name == "night" else light.tone(rgb("f7c85a"))
    p.add(
        f"M{x - 84} 366Q{x - 70} 292 {x} 288Q{x + 70} 292 {x + 84} 366Z",
        p.fall(lighter(shade, 0.3), shade),
    )
    _top(
        p,
        light,
        690,
        vary(rng, rng.choice((rgb("e3b57f"), rgb("efe8df"), rgb("c9935c")))),
        grain=True,
    )
    _indoors(layers)
    return Stage(ground=690 / SIZE, near=0.925, far=0.8, shadow=0.45)


def _top(p: Painting, light: Light, top: float, wood: Colour, *, grain: bool) -> None:
    """A worktop or table that fills the frame's lower part."""
    p.add(
        box(0, top, SIZE, SIZE - top),
        p.fall(light.tone(lighter(wood, 0.22)), light.tone(wood), light.tone(darker(wood, 0.08))),
    )
    p.add(box(0, top, SIZE, 10), light.tone(lighter(wood, 0.45)))
    if not grain:
        return
    for y in (top + 56, top + 140, top + 256):
        p.line(f"M0 {y:.0f}H{SIZE}", light.tone(darker(wood, 0.16)), 4, 0.7)


@setting({"day": "day", "night": "night"})
def table(layers: Layers) -> Stage:
    """A tabletop seen close: wood or a checked cloth, the room behind out of focus."""
    p, rng = layers.back, layers.rng
    light = _interior(layers.light)
    wall = vary(rng, rng.choice((rgb("f3e3cd"), rgb("cfe0e6"), rgb("e6dcea"), rgb("d6e6d2"))))
    top = 640.0
    p.add(
        box(0, 0, SIZE, top),
        p.fall(light.tone(lighter(wall, 0.25)), light.tone(wall), light.tone(darker(wall, 0.1))),
    )
    side = rng.choice((-1, 1))
    glow = light.sky[2] if light.name != "night" else rgb("ffdf8c")
    p.add(ellipse(512 + side * 260, 260, 420, 360), p.glow(lighter(glow, 0.4), 0.85, 0.1))
    for _ in range(7):
        x, y, r = rng.uniform(0, SIZE), rng.uniform(60, 520), rng.uniform(34, 84)
        colour = rng.choice((lighter(glow, 0.6), rgb("ffe7b8"), rgb("ffd0c0")))
        p.add(ellipse(x, y, r, r), colour, 0.22)
    wood = vary(rng, rng.choice((rgb("c98d56"), rgb("b87a48"), rgb("dcae78"))))
    cloth = rng.random() < 0.5
    _top(p, light, top, wood, grain=not cloth)
    if cloth:
        base = rng.choice((rgb("e4574f"), rgb("5a8fd6"), rgb("62ad7f"), rgb("f0a03c")))
        white = rgb("fffaf2")
        p.add(
            box(0, top, SIZE, SIZE - top),
            p.fall(light.tone(lighter(white, 0.2)), light.tone(darker(white, 0.06))),
        )
        for i in range(-7, 8):
            a0, a1, b0, b1 = (
                512 + v for v in (i * 130 - 32, i * 130 + 32, i * 196 - 49, i * 196 + 49)
            )
            p.add(polygon([(a0, top), (a1, top), (b1, SIZE), (b0, SIZE)]), light.tone(base), 0.5)
        for y0, y1 in ((660, 690), (724, 764), (808, 862), (918, 990)):
            p.add(box(0, y0, SIZE, y1 - y0), light.tone(base), 0.5)
        p.add(box(0, top, SIZE, 8), light.tone(darker(base, 0.1)), 0.6)
    _indoors(layers)
    return Stage(ground=top / SIZE, near=0.9, far=0.76, shadow=0.5)


@setting({"night": "night"})
def stage(layers: Layers) -> Stage:
    """A theatre stage: red curtains, boards, spotlights."""
    p, rng = layers.back, layers.rng
    red = vary(rng, rng.choice((rgb("c8343f"), rgb("b3305f"), rgb("7a3fae"))), 0.015)
    p.add(box(0, 0, SIZE, 720), p.fall(darker(red, 0.55), darker(red, 0.4)))
    for i in range(12):
        x = i * SIZE / 11 - 46
        p.add(box(x, 0, 94, 720), p.across(darker(red, 0.5), darker(red, 0.28), darker(red, 0.5)))
    boards = rgb("b9794a")
    p.add(box(0, 700, SIZE, 330), p.fall(darker(boards, 0.25), boards))
    for i in range(-8, 9):
        seam = (512 + (i + 0.5) * 80, 700), (512 + (i + 0.5) * 160, SIZE + 10)
        p.line(f"M{moves(seam)}", darker(boards, 0.3), 3.5, 0.6)
    for x, foot in ((250, 430), (774, 594)):
        p.add(
            polygon([(x - 26, -10), (x + 26, -10), (foot + 250, 900), (foot - 250, 900)]),
            p.fade([(0, rgb("fff4c8"), 0.42), (1, rgb("fff4c8"), 0.04)]),
        )
    p.add(ellipse(512, 890, 430, 104), p.glow(rgb("fff0b8"), 0.85, 0.3))
    for side in (-1, 1):
        for i in range(4):
            wide = 74
            x = 512 + side * (540 - i * wide * 0.72)
            drape = box(x - wide / 2, -20, wide, 850 - i * 26, 24)
            p.add(drape, p.across(darker(red, 0.18), lighter(red, 0.16), darker(red, 0.22)))
    hems = [
        f"{i * 205 - 2} 70Q{moves(((i * 205 + 102, 190), (i * 205 + 207, 70)))}" for i in range(5)
    ]
    swag = "".join(f"M{hem}V-20H{i * 205 - 2}Z" for i, hem in enumerate(hems))
    p.add(swag, p.fall(darker(red, 0.1), lighter(red, 0.1), darker(red, 0.1)))
    p.line("".join(f"M{hem}" for hem in hems), rgb("f3c15f"), 9)
    layers.tint = tint((1.0, 0.98, 0.93))
    return Stage(ground=700 / SIZE, near=0.91, far=0.8, shadow=0.5)
