"""Things that people made: houses, windows, fences, barns, lamps.

As in `nature`, `x` and `y` name the middle of a thing's base and `depth` fades it.
"""

from __future__ import annotations

import random

from training.data.scenes.colour import WHITE, Colour, Light, darker, lighter, mix, rgb
from training.data.scenes.painting import SIZE, Painting, box, ellipse, moves, polygon

LIT = rgb("ffdf8c")
"""A window with a lamp behind it."""
GLASS = rgb("a9d8f5")


def windows(
    p: Painting,
    light: Light,
    rng: random.Random,
    frame: tuple[float, float, float, float],
    grid: tuple[int, int],
    depth: float = 0.0,
) -> None:
    """A grid of panes in a frame (x, y, width, height); some are lit after sunset."""
    x, y, width, height = frame
    columns, rows = grid
    lit: list[str] = []
    dark: list[str] = []
    share = {"night": 0.62, "sunset": 0.3}.get(light.name, 0.0)
    for i in range(columns):
        for j in range(rows):
            cell = (width / columns, height / rows)
            pane = box(
                x + (i + 0.22) * cell[0], y + (j + 0.2) * cell[1], cell[0] * 0.56, cell[1] * 0.6, 4
            )
            (lit if rng.random() < share else dark).append(pane)
    if dark:
        p.add("".join(dark), light.tone(GLASS, depth), 0.85)
    if lit:
        p.add("".join(lit), mix(LIT, light.haze, depth * 0.6))


def tower(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    size: tuple[float, float],
    colour: Colour,
    *,
    depth: float = 0.0,
    panes: bool = True,
) -> None:
    """A tall building of a width and height, with one of four roofs."""
    width, height = size
    top = y - height
    body = p.across(
        light.tone(lighter(colour, 0.14), depth),
        light.tone(colour, depth),
        light.tone(darker(colour, 0.16), depth),
    )
    roof = rng.randrange(4)
    if roof == 0:
        p.add(polygon([(x - width / 2, top), (x, top - width * 0.45), (x + width / 2, top)]), body)
    elif roof == 1:
        p.add(box(x - width * 0.3, top - width * 0.28, width * 0.6, width * 0.5, 6), body)
        p.line(f"M{moves(((x, top - width * 0.7),))}V{top:.1f}", light.tone(colour, depth), 6)
    elif roof == 2:
        p.add(ellipse(x, top, width / 2, width * 0.32), body)
    p.add(box(x - width / 2, top, width, height, 8), body)
    if panes:
        rows = max(3, round(height / 52))
        columns = max(2, round(width / 40))
        frame = (x - width * 0.44, top + 14, width * 0.88, rows * 50.0)
        windows(p, light, rng, frame, (columns, rows), depth)


def house(
    p: Painting,
    light: Light,
    x: float,
    y: float,
    width: float,
    walls: Colour,
    roof: Colour,
    *,
    depth: float = 0.0,
) -> None:
    """A small house with a gable roof, a door and a window."""
    height = width * 0.62
    p.add(
        box(x - width / 2, y - height, width, height, 4),
        p.fall(light.tone(lighter(walls, 0.15), depth), light.tone(darker(walls, 0.1), depth)),
    )
    eaves = [(x - width * 0.6, y - height), (x, y - height * 1.75), (x + width * 0.6, y - height)]
    p.add(
        polygon(eaves),
        p.fall(light.tone(lighter(roof, 0.15), depth), light.tone(darker(roof, 0.12), depth)),
    )
    p.add(
        box(x - width * 0.34, y - height * 0.6, width * 0.24, height * 0.6, 5),
        light.tone(rgb("8a5a3c"), depth),
    )
    pane = LIT if light.name == "night" else light.tone(GLASS, depth)
    p.add(box(x + width * 0.06, y - height * 0.68, width * 0.28, height * 0.34, 4), pane)


def fence(
    p: Painting,
    light: Light,
    y: float,
    height: float,
    span: tuple[float, float] = (0, SIZE),
    colour: Colour = WHITE,
    *,
    step: float = 46,
    pointed: bool = True,
) -> None:
    """A picket fence between two x."""
    first, last = span
    shade = light.tone(darker(colour, 0.16))
    for level in (0.72, 0.32):
        p.add(box(first, y - height * level, last - first, height * 0.11), shade)
    pickets = []
    x = first + step / 2
    wide = step * 0.52 if pointed else step * 0.22
    while x < last:
        a, b, top = x - wide / 2, x + wide / 2, y - height
        tip = top - (wide * 0.45 if pointed else 0)
        pickets.append(polygon([(a, y), (a, top), (x, tip), (b, top), (b, y)]))
        x += step
    p.add("".join(pickets), p.fall(light.tone(colour), light.tone(darker(colour, 0.1))))


def barn(p: Painting, light: Light, x: float, y: float, width: float) -> None:
    """A red barn with a gambrel roof and white trim."""
    height = width * 0.5
    red = rgb("c8483f")
    shape = [
        (x - width / 2, y),
        (x - width / 2, y - height),
        (x - width * 0.34, y - height * 1.45),
        (x, y - height * 1.75),
        (x + width * 0.34, y - height * 1.45),
        (x + width / 2, y - height),
        (x + width / 2, y),
    ]
    p.add(polygon(shape), p.fall(light.tone(lighter(red, 0.12)), light.tone(darker(red, 0.12))))
    roof = "M" + "L".join(moves((point,)) for point in shape[1:6])
    p.line(roof, light.tone(rgb("7b4a3e")), width * 0.07)
    door = (x - width * 0.2, y - height * 0.78, width * 0.4, height * 0.78)
    white = light.tone(rgb("fff6ea"))
    p.add(box(*door, 3), light.tone(darker(red, 0.3)))
    left, top, right = door[0], door[1], door[0] + door[2]
    cross = f"M{moves(((left, top),))}L{moves(((right, y), (right, top), (left, y)))}V{top:.1f}"
    p.line(f"{cross}H{right:.1f}", white, width * 0.025)
    loft = LIT if light.name == "night" else light.tone(rgb("5b3a35"))
    p.add(ellipse(x, y - height * 1.22, width * 0.08, width * 0.08), white)
    p.add(ellipse(x, y - height * 1.22, width * 0.06, width * 0.06), loft)


def lamp_post(p: Painting, light: Light, x: float, y: float, height: float) -> None:
    """A street lamp; it shines after sunset."""
    iron = light.tone(rgb("4a5266"))
    p.line(f"M{moves(((x, y),))}V{y - height:.1f}", iron, height * 0.03)
    p.line(f"M{moves(((x - height * 0.03, y),))}H{x + height * 0.03:.1f}", iron, height * 0.045)
    top, r = y - height, height * 0.06
    if light.name in ("night", "sunset"):
        p.add(ellipse(x, top, r * 5, r * 5), p.glow(rgb("ffe3a0"), 0.55, 0.1))
        p.add(ellipse(x, top, r, r), rgb("fff0c0"))
    else:
        p.add(ellipse(x, top, r, r), light.tone(rgb("f4f1e4")))
    p.add(box(x - r * 1.1, top - r * 1.25, r * 2.2, r * 0.6, 4), iron)
