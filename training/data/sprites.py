"""Subjects in the sizes in which scenes show them: visible part cut out, fitted, premultiplied."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from training.data.render import Pixels, render
from training.data.scenes.anchors import EDGES

CELL: Final = 64
"""Pixels along the edge of a cell at 1024 px."""
SEEN: Final = 26
"""Least opacity (0-255) of a pixel that counts as part of a subject's visible box."""
CONTACT: Final = 0.14
"""Share of a subject's height above its base that decides how wide its shadow is."""

OFFSETS: Final = tuple(sum((CELL * edge) ** 2 for edge in EDGES[:n]) for n in range(len(EDGES)))
"""Where each size begins in `Sprite.pixels`, in the order of EDGES."""
LENGTH: Final = sum((CELL * edge) ** 2 for edge in EDGES)
"""Pixels of a sprite in all sizes."""

Sprite = tuple[NDArray[np.int32], tuple[float, float]]
"""Premultiplied RGBA in all sizes [LENGTH], one pixel in four bytes (red lowest); and centre and
half width of the part that touches the ground, as shares of the box from its middle."""


def fitted(image: Pixels, edge: int) -> NDArray[np.uint8]:
    """Returns the visible part in a square [edge, edge, 4], premultiplied, touching its base.

    Args:
        image: [h, w, 4] with straight alpha, not empty.
        edge: Edge of the square in px.

    Raises:
        ValueError: Nothing of the image is visible.
    """
    seen = image[..., 3] > SEEN
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    if not len(rows):
        raise ValueError("Nothing of the image is visible.")
    cut = Image.fromarray(image[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1])
    scale = edge / max(cut.size)
    size = max(1, round(cut.width * scale)), max(1, round(cut.height * scale))
    # Pillow premultiplies RGBA before it resizes, and divides afterwards unless the mode is RGBa.
    small = np.array(cut.convert("RGBa").resize(size, Image.Resampling.LANCZOS))
    small[..., :3] = np.minimum(small[..., :3], small[..., 3:])
    out = np.zeros((edge, edge, 4), np.uint8)
    left = (edge - size[0]) // 2
    out[edge - size[1] :, left : left + size[0]] = small
    return out


def contact(sprite: NDArray[np.uint8]) -> tuple[float, float]:
    """Returns where a fitted sprite touches the ground: centre from the middle, and half width.

    Both are shares of the edge. A bar of half width a has the variance a**2 / 3.
    """
    edge = len(sprite)
    alpha = sprite[..., 3] / 255
    tall = edge - int(np.flatnonzero(alpha.max(1) > 0.1)[0])
    profile = alpha[edge - max(1, round(CONTACT * tall)) :].max(0)
    columns = (np.arange(edge) + 0.5) / edge - 0.5
    weight = profile.sum()
    middle = float((profile * columns).sum() / weight)
    spread = float((profile * (columns - middle) ** 2).sum() / weight)
    return middle, (3 * spread) ** 0.5


def packed(image: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Returns RGBA [h, w, 4] as [h, w], one pixel in four bytes."""
    return np.ascontiguousarray(image).view("<i4")[..., 0]


def sprite(svg: str) -> Sprite:
    """Renders one subject in all sizes.

    Raises:
        ValueError: The SVG cannot be rendered, or nothing of it is visible.
    """
    image = render(svg, CELL * 16)
    sizes = [fitted(image, CELL * edge) for edge in EDGES]
    return np.concatenate([packed(size).ravel() for size in sizes]), contact(sizes[-1])
