"""Places in a scene where subjects stand or float.

The frame is a grid of 16 x 16 cells of 64 px, one for each token of the transformer. Boxes lie on
the grid and have few sizes, so that a subject has few different codes; with boxes anywhere, each
offset is another code to learn, and details stay soft (docs/decisions.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

CELLS: Final = 16
"""Cells along the frame's edge."""

EDGES: Final = (4, 6, 8, 12)
"""Edges of boxes in cells."""

SIZES: Final = {"small": 4, None: 8, "large": 12}
"""Edge of a single subject's box in a scene, by the size that words give."""
PLAIN_SIZES: Final = {"small": 6, None: 12, "large": 12}
"""The same on a plain background, which has nothing else to show."""

SIDES: Final = ("left", "centre", "right")
RELATIONS: Final = ("next to", "left of", "right of", "above", "below")
MAX_SUBJECTS: Final = 4
PLACES: Final = 4
"""Places of each layout, among which the image's noise decides."""


@dataclass(frozen=True, slots=True)
class Anchor:
    """A square box in the frame, in cells. The subject's visible part fits into it and touches
    its lower edge, centred.

    Attributes:
        left: Cells from the left.
        top: Cells from the top.
        edge: One of EDGES.
        sink: Share of the box that is below the surface of water, snow or grass.
        shadow: Opacity of the contact shadow, 0-1.
        foam: Opacity of the ring of foam at the surface, 0-1.
    """

    left: int
    top: int
    edge: int
    sink: float = 0.0
    shadow: float = 0.0
    foam: float = 0.0

    @property
    def base(self) -> int:
        """Lower edge of the box, in cells from the top."""
        return self.top + self.edge


@dataclass(frozen=True, slots=True)
class Stage:
    """How a setting places its subjects; heights are shares of the frame from the top.

    Attributes:
        ground: Height of the ground line or horizon; None where everything floats.
        near: Base of large subjects.
        far: Base of small ones.
        sink: Share of a standing subject that is below the surface.
        shadow: Opacity of contact shadows.
        foam: Opacity of foam around standing subjects.
        plain: True for a plain background, on which a single subject is larger.
    """

    ground: float | None
    near: float = 0.9
    far: float = 0.74
    sink: float = 0.0
    shadow: float = 0.4
    foam: float = 0.0
    plain: bool = False

    def base(self, edge: int) -> int:
        """The row on which a box stands: the larger, the nearer."""
        share = min(1.0, (edge - EDGES[0]) / (SIZES[None] - EDGES[0]))
        return round(CELLS * (self.far + (self.near - self.far) * share))

    def standing(self, left: int, edge: int, base: int | None = None) -> Anchor:
        """A box on the ground; it floats where there is no ground."""
        if self.ground is None:
            return self.floating(left, (CELLS - edge) // 2, edge)
        top = max(0, (self.base(edge) if base is None else base) - edge)
        return Anchor(left, top, edge, self.sink, self.shadow, self.foam)

    def floating(self, left: int, top: int, edge: int) -> Anchor:
        """A box in the air."""
        return Anchor(left, top, edge)


@dataclass(frozen=True, slots=True)
class Layout:
    """What an arrangement depends on besides stage and place.

    Attributes:
        count: Number of boxes, 0 to MAX_SUBJECTS.
        size: Of a single subject: "small", "large", or None.
        side: Of a single subject: one of SIDES, or None.
        relation: Of two subjects: one of RELATIONS, or None.
    """

    count: int = 1
    size: str | None = None
    side: str | None = None
    relation: str | None = None


LAYOUTS: Final = (
    Layout(0),
    *(Layout(1, size, side) for size in SIZES for side in (None, *SIDES)),
    *(Layout(2, relation=relation) for relation in (None, *RELATIONS)),
    *(Layout(count) for count in range(3, MAX_SUBJECTS + 1)),
)
"""All layouts; two equal subjects have the one of two subjects without a relation."""

_SHIFTS: Final = {4: (-3, -1, 1, 3), 6: (-2, -1, 1, 2), 8: (-2, -1, 1, 2), 12: (-1, 0, 0, 1)}
"""Offsets from the middle of a single box, by its edge."""
_ASIDE: Final = {4: 4, 6: 4, 8: 4, 12: 2}
"""Distance from the middle of a single box that is to be at a side."""
_PAIR: Final = 6
"""Edge of each of two boxes."""
_MANY: Final = 4
"""Edge of each of three or four."""


def arrange(stage: Stage, layout: Layout, place: int) -> list[Anchor]:
    """Boxes of a layout, in the order in which the caption names the subjects.

    Args:
        stage: The scene's stage.
        layout: One of LAYOUTS.
        place: 0 to PLACES - 1, the choice that is left open.
    """
    if layout.count == 0:
        return []
    if layout.count == 1:
        return [_single(stage, layout, place)]
    if layout.count == 2:
        return _pair(stage, layout.relation, place)
    return _several(stage, layout.count, place)


def _single(stage: Stage, layout: Layout, place: int) -> Anchor:
    edge = (PLAIN_SIZES if stage.plain else SIZES)[layout.size]
    middle = (CELLS - edge) // 2
    if layout.side is None:
        left = middle + _SHIFTS[edge][place]
    else:
        left = middle + (SIDES.index(layout.side) - 1) * _ASIDE[edge]
    if stage.ground is None:
        rise = _cut((-1, 1, 0, -2)[place], 12 - edge) if not stage.plain else 0
        return stage.floating(left, middle + rise, edge)
    return stage.standing(left, edge)


def _cut(value: int, most: int) -> int:
    return max(-most, min(most, value))


def _pair(stage: Stage, relation: str | None, place: int) -> list[Anchor]:
    if relation in ("above", "below"):
        left = (CELLS - _PAIR) // 2 + (-2, -1, 1, 2)[place]
        lower = stage.standing(left, _PAIR, round(CELLS * stage.near))
        if stage.ground is None:
            lower = stage.floating(left, 9, _PAIR)
        pair = [stage.floating(left, max(0, lower.top - _PAIR - 1), _PAIR), lower]
        return pair if relation == "above" else pair[::-1]
    first = (0, 1, 1, 2)[place]
    pair = [stage.standing(first + turn * (_PAIR + 1 + place % 2), _PAIR) for turn in (0, 1)]
    mirrored = relation == "right of" or (relation != "left of" and place >= PLACES // 2)
    return pair[::-1] if mirrored else pair


def _several(stage: Stage, count: int, place: int) -> list[Anchor]:
    """Three in a row or a triangle, four in a square or a zigzag."""
    rows: Sequence[tuple[int, int]]
    if count == 3:
        first = (0, 1, 2, 1)[place]
        rows = [(first, 0), (first + 5, int(place == 3)), (first + 10, 0)]
    elif place < PLACES // 2:
        first = (2, 4)[place]
        rows = [(first, -3), (first + 6, -3), (first, 1), (first + 6, 1)]
    else:
        first = (0, 1)[place - PLACES // 2]
        rows = [(first, 1), (first + 3, -2), (first + 7, 1), (first + 10, -2)]
    if stage.ground is None:
        return [stage.floating(left, 6 + row, _MANY) for left, row in rows]
    level = round(CELLS * (stage.far + stage.near) / 2)
    # Boxes behind do not leave the ground, and those in front make room for them.
    highest = int(CELLS * stage.ground) + 1
    level += max(0, highest - level - min(row for _, row in rows))
    return [stage.standing(left, _MANY, min(CELLS - 1, level + row)) for left, row in rows]
