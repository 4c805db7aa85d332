"""Clouds, stars, the sun, the moon, and the sky as a whole."""

from __future__ import annotations

import math
import random

from training.data.scenes.colour import (
    Colour,
    Light,
    lighter,
    mix,
    rgb,
)
from training.data.scenes.painting import (
    SIZE,
    Painting,
    box,
    ellipse,
    moves,
)

SUN = rgb("ffd84a")


def cloud(p: Painting, light: Light, rng: random.Random, x: float, y: float, width: float) -> None:
    """A cumulus with a level base at y, centred at x."""
    height = width * rng.uniform(0.3, 0.4)
    count = rng.randint(3, 4)
    parts = [box(x - width / 2, y - height * 0.42, width, height * 0.42, height * 0.21)]
    for i in range(count):
        share = (i + 0.5) / count
        bulge = math.sin(math.pi * share)
        r = height * (0.26 + 0.3 * bulge) * rng.uniform(0.9, 1.1)
        cx = x + (share - 0.5) * width * 0.78 + rng.uniform(-0.02, 0.02) * width
        parts.append(ellipse(cx, y - height * 0.3 - r * 0.55, r * 1.1, r))
    base = light.cloud
    low = mix(base, light.sky[1], 0.42)
    p.add("".join(parts), p.fade([(0, lighter(base, 0.1), 1), (0.45, base, 1), (1, low, 1)]))


def clouds(
    p: Painting,
    light: Light,
    rng: random.Random,
    count: int,
    span: tuple[float, float],
    avoid: tuple[float, float],
) -> None:
    """Clouds over the frame's width between two heights, apart from each other and from `avoid`."""
    taken = [(avoid[0], avoid[1] + 20, 170.0)]
    for i in range(count):
        for _ in range(8):
            x = SIZE * (i + rng.uniform(0.1, 0.9)) / count
            width = rng.uniform(130, 210) + 110 * abs(x / SIZE - 0.5) * 2
            y = rng.uniform(*span)
            if all(
                abs(x - other) > (width + wide) / 2 + 20 or abs(y - level) > 120
                for other, level, wide in taken
            ):
                cloud(p, light, rng, x, y, width)
                taken.append((x, y, width))
                break


def star(x: float, y: float, r: float) -> str:
    """Path data of a four-pointed star."""
    q = r * 0.16
    return (
        f"M{moves(((x, y - r),))}Q{moves(((x + q, y - q), (x + r, y)))}"
        f"Q{moves(((x + q, y + q), (x, y + r)))}Q{moves(((x - q, y + q), (x - r, y)))}"
        f"Q{moves(((x - q, y - q), (x, y - r)))}Z"
    )


def stars(
    p: Painting,
    rng: random.Random,
    count: int,
    bottom: float,
    *,
    pointed: float = 0.2,
    avoid: tuple[float, float] = (-200, -200),
) -> None:
    """Stars on a jittered grid down to a height, a share of them `pointed`, none near `avoid`."""
    columns = max(1, round(math.sqrt(count * SIZE / max(1.0, bottom))))
    rows = max(1, round(count / columns))
    small, large = [], []
    for i in range(columns):
        for j in range(rows):
            x = (i + rng.uniform(0.1, 0.9)) * SIZE / columns
            y = (j + rng.uniform(0.1, 0.9)) * bottom / rows
            if math.hypot(x - avoid[0], y - avoid[1]) < 125:
                continue
            if rng.random() < pointed:
                large.append(star(x, y, rng.uniform(9, 17)))
            else:
                r = rng.uniform(1.8, 3.6)
                small.append(ellipse(x, y, r, r))
    p.add("".join(small), rgb("dfe8ff"), 0.85)
    p.add("".join(large), rgb("fff6d8"), 0.95)


def sun(p: Painting, x: float, y: float, r: float, colour: Colour = SUN) -> None:
    """A sun centred at (x, y) with a halo."""
    p.add(ellipse(x, y, r * 3.2, r * 3.2), p.glow(lighter(colour, 0.5), 0.75, 0.12))
    p.add(ellipse(x, y, r, r), p.fall(lighter(colour, 0.45), colour))


def moon(p: Painting, rng: random.Random, x: float, y: float, r: float) -> None:
    """A full or a crescent moon centred at (x, y) with a halo."""
    p.add(ellipse(x, y, r * 3, r * 3), p.glow(rgb("cdd9ff"), 0.4, 0.1))
    fill = p.fall(rgb("fffbe6"), rgb("f3dc9c"))
    if rng.random() < 0.5:
        p.add(ellipse(x, y, r, r), fill)
        for dx, dy, share in ((-0.3, -0.2, 0.22), (0.3, 0.15, 0.17), (-0.1, 0.42, 0.14)):
            p.add(ellipse(x + dx * r, y + dy * r, share * r, share * r), rgb("d9bf80"), 0.55)
        return
    tips = ((x + r * 0.5, y - r * 0.87), (x + r * 0.5, y + r * 0.87))
    big, small = f"{r:.1f} {r:.1f}", f"{r * 0.9:.1f} {r * 0.9:.1f}"
    p.add(
        f"M{moves(tips[:1])}A{big} 0 1 0 {moves(tips[1:])}A{small} 0 1 1 {moves(tips[:1])}Z", fill
    )


def sky(
    p: Painting,
    light: Light,
    rng: random.Random,
    horizon: float = 620,
    *,
    cloudy: int = 3,
    disc: bool = True,
) -> tuple[float, float]:
    """The sky down to a horizon, with clouds, stars at night, and the sun or moon to one side.

    Returns the centre of the sun or moon.
    """
    p.add(box(0, 0, SIZE, horizon + 60), p.fall(*light.sky))
    side = rng.choice((-1, 1))
    x, y = 512 + side * rng.uniform(270, 400), rng.uniform(110, 190)
    if light.name == "night":
        stars(p, rng, 46, horizon * 0.7, avoid=(x, y))
        if disc:
            moon(p, rng, x, y, rng.uniform(50, 66))
    elif disc and light.name == "day":
        sun(p, x, y, rng.uniform(48, 62))
    elif disc and light.name == "sunset":
        x, y = 512 + side * rng.uniform(200, 360), horizon - rng.uniform(60, 120)
        sun(p, x, y, 70, rgb("ffb13d"))
    clouds(p, light, rng, cloudy, (120, min(330, horizon - 150)), (x, y))
    return x, y
