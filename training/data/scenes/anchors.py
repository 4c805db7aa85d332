"""Places in a scene where subjects stand or float.

All lengths are fractions of the frame's edge, from the top left corner. An anchor is a square box:
the subject's visible part fits into it, centred, and touches its base.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

SIZES = {"large": 0.52, "medium": 0.38, "small": 0.24}
"""Edge of one subject's box."""

SIDES = {"left": 0.28, "centre": 0.5, "right": 0.72}
RELATIONS = ("next to", "left of", "right of", "above", "below")
MAX_SUBJECTS = 4
ROW_EDGES = {2: 0.4, 3: 0.29, 4: 0.225}
"""Edge of a box when 2, 3 or 4 subjects stand side by side."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A square box in the frame.

    Attributes:
        x: Centre of the box.
        y: Base of the box, where feet touch the ground or a hull ends below the water.
        edge: Width and height.
        stands: True on a ground or in water, False in the air, under water or in space.
        sink: Share of the box that is below the surface of water, snow or grass.
        shadow: Opacity of the contact shadow, 0-1.
        foam: Opacity of the ring of foam at the surface, 0-1.
        turn: Clockwise rotation in radians.
    """

    x: float
    y: float
    edge: float
    stands: bool = True
    sink: float = 0.0
    shadow: float = 0.0
    foam: float = 0.0
    turn: float = 0.0

    def columns(self) -> tuple[float, ...]:
        """The row that `composing.compose` takes; see `composing.COLUMNS`."""
        return self.x, self.y, self.edge, self.sink, self.shadow, self.foam, self.turn


@dataclass(frozen=True, slots=True)
class Stage:
    """How a setting places its subjects.

    Attributes:
        ground: Height of the ground line or horizon; None where everything floats.
        near: Base of large subjects.
        far: Base of small ones.
        air: Highest and lowest base of a floating subject of medium size.
        sink: Share of a standing subject that is below the surface.
        shadow: Opacity of contact shadows.
        foam: Opacity of foam around standing subjects.
        tilt: Largest turn of floating subjects in radians.
    """

    ground: float | None
    near: float = 0.9
    far: float = 0.74
    air: tuple[float, float] = (0.44, 0.52)
    sink: float = 0.0
    shadow: float = 0.4
    foam: float = 0.0
    tilt: float = 0.0

    def standing(self, x: float, edge: float) -> Anchor:
        """A box on the ground: the larger, the nearer. It floats where there is no ground."""
        if self.ground is None:
            return self.floating(x, 0.5 + edge / 2, edge)
        closeness = (edge - SIZES["small"]) / (SIZES["large"] - SIZES["small"])
        y = self.far + (self.near - self.far) * min(1.0, max(0.0, closeness))
        return Anchor(x, y, edge, True, self.sink, self.shadow, self.foam)

    def floating(self, x: float, y: float, edge: float) -> Anchor:
        """A box in the air, kept inside the frame."""
        y = min(0.97, max(edge + 0.03, y))
        return Anchor(x, y, edge, stands=False)


def anchors(stage: Stage) -> dict[str, Anchor]:
    """The fixed boxes of a stage: "large left" ... "small right", "above", "below"."""
    named = {
        f"{size} {side}": stage.standing(0.5 + (x - 0.5) * (1.0 if edge < 0.5 else 0.6), edge)
        for size, edge in SIZES.items()
        for side, x in SIDES.items()
    }
    named["above"], named["below"] = _stacked(stage, 0.5, 0.36)
    return named


def _stacked(stage: Stage, x: float, edge: float) -> tuple[Anchor, Anchor]:
    upper = stage.floating(x, 0.06 + edge, edge)
    lower = replace(stage.standing(x, edge), y=0.92 if stage.ground is None else stage.near)
    return upper, lower


def _row(rng: random.Random, stage: Stage, count: int) -> list[Anchor]:
    """`count` boxes from left to right that hardly overlap."""
    edge = ROW_EDGES[count] * rng.uniform(0.92, 1.0)
    pitch = min(0.96 / count, edge * 1.16)
    first = 0.5 - pitch * (count - 1) / 2
    slack = max(0.0, first - edge / 2 - 0.02)
    first += rng.uniform(-slack, slack)
    row = [stage.standing(first + i * pitch, edge) for i in range(count)]
    if stage.ground is not None:
        level = stage.far + (stage.near - stage.far) * rng.uniform(0.45, 0.95)
        return [replace(a, y=level + rng.uniform(-0.012, 0.012)) for a in row]
    return [replace(a, y=a.y + rng.uniform(-0.07, 0.07)) for a in row]


def arrange(
    rng: random.Random,
    stage: Stage,
    count: int = 1,
    *,
    relation: str | None = None,
    size: str | None = None,
    side: str | None = None,
    floats: bool = False,
) -> list[Anchor]:
    """Boxes for `count` subjects, in the order in which the caption names them.

    Args:
        rng: Chooses what is left open and moves the boxes a little.
        stage: The scene's stage.
        count: 1 to 4.
        relation: For two subjects, where the first is seen from the second; one of RELATIONS.
        size: For one subject, one of SIZES.
        side: For one subject, one of SIDES.
        floats: Puts one subject into the air where the setting has a ground.

    Raises:
        ValueError: The count, relation, size or side is not one of those named.
    """
    if not 1 <= count <= MAX_SUBJECTS:
        raise ValueError(f"{count} subjects cannot be placed; give 1 to {MAX_SUBJECTS}.")
    if relation is not None and (relation not in RELATIONS or count != 2):
        raise ValueError(f"Relation {relation!r} of {count} subjects; two take {RELATIONS}.")
    if size not in (None, *SIZES) or side not in (None, *SIDES):
        raise ValueError(f"No size {size!r} or side {side!r}; see SIZES and SIDES.")
    if count == 1:
        placed = [_single(rng, stage, size, side, floats)]
    elif relation in ("above", "below"):
        upper, lower = _stacked(stage, 0.5 + rng.uniform(-0.12, 0.12), rng.uniform(0.32, 0.38))
        placed = [upper, lower] if relation == "above" else [lower, upper]
    elif count == 4 and rng.random() < 0.5:
        placed = _square(rng, stage)
    else:
        placed = _row(rng, stage, count)
        if relation == "right of" or (relation == "next to" and rng.random() < 0.5):
            placed.reverse()
    return [
        a if a.stands else replace(a, turn=rng.uniform(-stage.tilt, stage.tilt)) for a in placed
    ]


def _single(
    rng: random.Random, stage: Stage, size: str | None, side: str | None, floats: bool
) -> Anchor:
    size = size or rng.choices(list(SIZES), (5, 4, 1))[0]
    side = side or rng.choices(list(SIDES), (1, 2, 1))[0]
    edge = SIZES[size] * rng.uniform(0.92, 1.08)
    x = 0.5 + (SIDES[side] - 0.5) * (1.0 if edge < 0.46 else 0.6) + rng.uniform(-0.03, 0.03)
    if floats and stage.ground is not None:
        low, high = stage.air
        base = rng.uniform(low, high) + (edge - SIZES["medium"]) / 2
        return stage.floating(x, base, edge)
    anchor = stage.standing(x, edge)
    if stage.ground is None:
        return stage.floating(x, anchor.y + rng.uniform(-0.1, 0.1), edge)
    return replace(anchor, y=anchor.y + rng.uniform(-0.015, 0.015))


def _square(rng: random.Random, stage: Stage) -> list[Anchor]:
    """Two boxes behind, two before them: rows apart enough that all four are seen."""
    edge = rng.uniform(0.21, 0.245)
    half = edge * rng.uniform(0.66, 0.9)
    middle = 0.5 + rng.uniform(-0.05, 0.05)
    if stage.ground is None:
        rows = (0.46, 0.46 + edge * 1.2)
    else:
        rows = (max(stage.ground + 0.03, stage.near - edge * 0.98), stage.near)
    return [
        replace(stage.standing(middle + way * half, edge), y=row) for row in rows for way in (-1, 1)
    ]
