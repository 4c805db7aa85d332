"""Things that grow: trees, bushes, cacti, grass, flowers.

Every function adds one thing, or one kind of thing, to a painting. `x` and `y` name the middle of
its base unless said otherwise; `depth` (0-1) fades it into the haze.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable

from training.data.scenes.colour import WHITE, Colour, Light, darker, lighter, mix, rgb, vary
from training.data.scenes.painting import SIZE, Painting, box, ellipse, moves, polygon

BARK = rgb("8a5a3c")
LEAF = rgb("52b04a")
PINE = rgb("2f8f63")
PETALS = tuple(rgb(text) for text in ("ff6f91", "ffc845", "ff8a4c", "b98cf2", "f25c5c", "ffffff"))


def pine(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    height: float,
    *,
    depth: float = 0.0,
    snow: bool = False,
    green: Colour = PINE,
) -> None:
    """A fir of three or four rounded tiers."""
    width = height * rng.uniform(0.44, 0.52)
    bark = light.tone(BARK, depth)
    p.add(box(x - width * 0.07, y - height * 0.2, width * 0.14, height * 0.2, 4), bark)
    green = vary(rng, green, 0.015)
    tiers = 3 if height < 220 else 4
    for i in range(tiers):
        share = i / tiers
        bottom = y - height * (0.1 + 0.8 * share * 0.86)
        top = bottom - height * (0.46 - 0.1 * share)
        half = width / 2 * (1 - 0.68 * share)
        rounded, waist = half * 0.18, bottom - (bottom - top) * 0.35
        path = (
            f"M{moves(((x, top),))}"
            f"Q{moves(((x + half * 0.5, waist), (x + half, bottom - rounded)))}"
            f"Q{moves(((x + half * 0.9, bottom + rounded * 0.6), (x + half * 0.6, bottom)))}"
            f"Q{moves(((x, bottom + rounded), (x - half * 0.6, bottom)))}"
            f"Q{moves(((x - half * 0.9, bottom + rounded * 0.6), (x - half, bottom - rounded)))}"
            f"Q{moves(((x - half * 0.5, waist), (x, top)))}Z"
        )
        high = light.tone(rgb("ffffff") if snow else lighter(green, 0.22), depth)
        middle = light.tone(mix(green, WHITE, 0.55) if snow else green, depth)
        low = light.tone(darker(green, 0.22), depth)
        stops = [(0.0, high, 1.0), (0.42 if snow else 0.5, high if snow else middle, 1.0)]
        stops += [(0.6, middle if not snow else mix(middle, low, 0.5), 1.0), (1.0, low, 1.0)]
        p.add(path, p.fade(stops, -0.3))


def tree(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    height: float,
    *,
    depth: float = 0.0,
    leaf: Colour = LEAF,
) -> None:
    """A broad-leaved tree with a crown of a few balls."""
    leaf = vary(rng, leaf, 0.02)
    trunk = height * 0.075
    bark = p.across(light.tone(lighter(BARK, 0.15), depth), light.tone(darker(BARK, 0.2), depth))
    p.add(
        polygon(
            [
                (x - trunk * 0.75, y),
                (x - trunk * 0.45, y - height * 0.5),
                (x + trunk * 0.45, y - height * 0.5),
                (x + trunk * 0.75, y),
            ]
        ),
        bark,
    )
    r = height * 0.25
    dark = light.tone(darker(leaf, 0.24), depth)
    parts = []
    for dx, dy, share in (
        (-0.72, 0.42, 0.74),
        (0.74, 0.4, 0.72),
        (0, 0.3, 0.9),
        (0.02, -0.42, 0.92),
    ):
        size = r * share * rng.uniform(0.95, 1.08)
        parts.append(ellipse(x + dx * r, y - height * 0.66 + dy * r, size * 1.06, size))
    p.add(
        "".join(parts),
        p.ball(light.tone(lighter(leaf, 0.28), depth), light.tone(leaf, depth), dark),
    )
    shine = light.tone(lighter(leaf, 0.34), depth)
    for dx, dy, share in ((-0.22, -0.72, 0.5), (-0.8, 0.2, 0.34), (0.6, 0.16, 0.36)):
        p.add(
            ellipse(x + dx * r, y - height * 0.66 + dy * r, share * r, share * r),
            p.glow(shine, 0.6),
        )


def bush(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    width: float,
    *,
    depth: float = 0.0,
    leaf: Colour = LEAF,
) -> None:
    """A low bush of three balls on a level base."""
    leaf = vary(rng, leaf, 0.02)
    fill = p.ball(
        light.tone(lighter(leaf, 0.28), depth),
        light.tone(leaf, depth),
        light.tone(darker(leaf, 0.25), depth),
    )
    for dx, share in ((-0.3, 0.27), (0.3, 0.25), (0.0, 0.34)):
        r = width * share * rng.uniform(0.94, 1.06)
        cx = x + dx * width
        p.add(f"M{moves(((cx - r, y),))}A{r:.1f} {r:.1f} 0 0 1 {moves(((cx + r, y),))}Z", fill)


def palm(
    p: Painting, light: Light, rng: random.Random, x: float, y: float, height: float, lean: float
) -> None:
    """A palm whose trunk bends by `lean` px to the side on its way up."""
    top = (x + lean, y - height)
    wide = height * 0.04
    bend = (x + lean * 0.25, y - height * 0.55)
    outline = (
        f"M{moves(((x - wide, y),))}"
        f"Q{moves(((bend[0] - wide, bend[1]), (top[0] - wide / 2, top[1])))}"
        f"L{moves(((top[0] + wide / 2, top[1]),))}"
        f"Q{moves(((bend[0] + wide, bend[1]), (x + wide, y)))}Z"
    )
    bark = rgb("b07a4a")
    p.add(outline, p.across(light.tone(lighter(bark, 0.2)), light.tone(darker(bark, 0.25))))
    leaf = vary(rng, rgb("3fae5a"))
    length = height * 0.42
    for i, angle in enumerate((-172, -8, -145, -35, -118, -62, 168, 12)):
        turn = math.radians(angle + rng.uniform(-6, 6))
        tip = (
            top[0] + length * math.cos(turn),
            top[1] + length * math.sin(turn) * 0.75 + length * 0.18,
        )
        middle = ((top[0] + tip[0]) / 2, (top[1] + tip[1]) / 2 - length * 0.24)
        lower = ((top[0] + tip[0]) / 2, (top[1] + tip[1]) / 2 + length * 0.02)
        path = f"M{moves((top,))}Q{moves((middle, tip))}Q{moves((lower, top))}Z"
        shade = darker(leaf, 0.22) if i < 2 or i > 5 else leaf
        p.add(path, p.fall(light.tone(lighter(shade, 0.22)), light.tone(shade)))
    for dx, dy in ((-0.5, 0.7), (0.6, 0.8)):
        r = height * 0.032
        p.add(
            ellipse(top[0] + dx * r * 1.4, top[1] + dy * r * 1.6, r, r), light.tone(rgb("7a5236"))
        )


def cactus(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    height: float,
    depth: float = 0,
) -> None:
    """A saguaro with two arms."""
    green = vary(rng, rgb("4f9e58"))
    wide = height * 0.2
    fill = p.across(
        light.tone(lighter(green, 0.25), depth),
        light.tone(green, depth),
        light.tone(darker(green, 0.3), depth),
    )
    for side in (-1, 1):
        level = y - height * rng.uniform(0.32, 0.5)
        reach = x + side * height * 0.27
        tip = level - height * rng.uniform(0.22, 0.32)
        path = f"M{moves(((x, level),))}H{reach - side * wide * 0.5:.1f}"
        path += f"Q{moves(((reach, level), (reach, level - wide * 0.6)))}V{tip:.1f}"
        p.line(path, light.tone(darker(green, 0.08 if side < 0 else 0.24), depth), wide * 0.72)
    p.add(box(x - wide / 2, y - height, wide, height + wide * 0.3, wide / 2), fill)


def grass(
    p: Painting,
    rng: random.Random,
    colours: tuple[Colour, Colour],
    spots: Iterable[tuple[float, float, float]],
) -> None:
    """Tufts of three blades, from the tip's to the root's colour, at (x, base y, height) each."""
    blades = []
    for x, y, height in spots:
        for lean in (-0.5, 0.0, 0.5):
            tip = (
                x + (lean + rng.uniform(-0.15, 0.15)) * height,
                y - height * (1 - abs(lean) * 0.4),
            )
            half = height * 0.09
            root = x + lean * height * 0.2
            blades.append(
                f"M{moves(((root - half, y),))}"
                f"Q{moves(((root - half * 0.4, y - height * 0.5), tip))}"
                f"Q{moves(((root + half * 1.4, y - height * 0.45), (root + half, y)))}Z"
            )
    p.add("".join(blades), p.fall(*colours))


def fringe(
    p: Painting, rng: random.Random, colours: tuple[Colour, Colour], height: float, step: float = 26
) -> None:
    """Blades of grass along the frame's lower edge, higher towards the corners."""
    spots = []
    x = -10.0
    while x < SIZE + 10:
        edge = abs(x / SIZE - 0.5) * 2
        spots.append((x, SIZE + 12, height * rng.uniform(0.7, 1.0) * (0.5 + 0.65 * edge**2)))
        x += step * rng.uniform(0.75, 1.25)
    grass(p, rng, colours, spots)


def flower(
    p: Painting,
    light: Light,
    rng: random.Random,
    x: float,
    y: float,
    height: float,
    petal: Colour | None = None,
) -> None:
    """A daisy or a tulip on a stem."""
    petal = petal or rng.choice(PETALS)
    stem, r = light.tone(rgb("3f9a47")), height * 0.27
    top = y - height + r
    bend = rng.uniform(-0.1, 0.1) * height
    p.line(
        f"M{moves(((x, y),))}Q{moves(((x + bend, y - height / 2), (x, top)))}", stem, height * 0.055
    )
    upper = moves(((x + r * 1.5, y - height * 0.2), (x + r * 1.2, y - height * 0.5)))
    lower = moves(((x + r * 0.1, y - height * 0.35), (x, y)))
    p.add(f"M{moves(((x, y),))}Q{upper}Q{lower}Z", stem)
    fill = p.ball(
        light.tone(lighter(petal, 0.35)), light.tone(petal), light.tone(darker(petal, 0.12))
    )
    if rng.random() < 0.35 and petal != WHITE:
        points = [(-1, -1), (-0.5, -0.45), (0, -1.1), (0.5, -0.45), (1, -1)]
        cup = "L".join(moves(((x + dx * r * 0.8, top + dy * r),)) for dx, dy in points)
        right = moves(((x + r, top + r), (x, top + r)))
        left = moves(((x - r, top + r), (x - r * 0.8, top - r)))
        p.add(f"M{cup}Q{right}Q{left}Z", fill)
        return
    turn = rng.uniform(0, math.tau)
    petals = [
        ellipse(
            x + r * 0.62 * math.cos(turn + i * math.tau / 6),
            top + r * 0.62 * math.sin(turn + i * math.tau / 6),
            r * 0.44,
            r * 0.44,
        )
        for i in range(6)
    ]
    p.add("".join(petals), fill)
    heart = rgb("f7b733") if petal != rgb("ffc845") else rgb("a8662e")
    p.add(ellipse(x, top, r * 0.4, r * 0.4), light.tone(heart))
