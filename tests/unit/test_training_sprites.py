"""Subjects cut out of their renderings, fitted into boxes, with what touches the ground."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from training.data import sprites
from training.data.scenes.anchors import EDGES


def rectangle(
    top: int, left: int, height: int, width: int, alpha: int = 255, size: int = 200
) -> NDArray[np.uint8]:
    """A red rectangle with straight alpha in an empty square."""
    image = np.zeros((size, size, 4), np.uint8)
    image[top : top + height, left : left + width] = (200, 40, 20, alpha)
    return image


def extent(alpha: NDArray[np.uint8]) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of what is mostly visible."""
    rows, columns = (np.flatnonzero((alpha > 127).any(axis)) for axis in (1, 0))
    return int(rows[0]), int(rows[-1]) + 1, int(columns[0]), int(columns[-1]) + 1


@pytest.mark.parametrize(
    ("height", "width", "expected"),
    [(40, 80, (32, 64, 0, 64)), (80, 40, (0, 64, 16, 48)), (150, 150, (0, 64, 0, 64))],
)
def test_a_subject_fills_its_box_centred_on_its_base_with_its_aspect(
    height: int, width: int, expected: tuple[int, int, int, int]
) -> None:
    made = sprites.fitted(rectangle(7, 31, height, width), 64)
    assert made.shape == (64, 64, 4) and made.dtype == np.uint8
    assert extent(made[..., 3]) == pytest.approx(expected, abs=1)
    assert made[63, 32].tolist() == [200, 40, 20, 255]


def test_a_subject_is_premultiplied_and_a_faint_halo_does_not_count() -> None:
    image = rectangle(60, 60, 80, 80, alpha=120)
    image[20:60, 20:180] = (255, 255, 255, sprites.SEEN - 6)
    made = sprites.fitted(image, 64)
    assert extent(made[..., 3] * 2) == (0, 64, 0, 64)
    assert made[32, 32].tolist() == pytest.approx([94, 19, 9, 120], abs=1)
    assert (made[..., :3] <= made[..., 3:]).all()


def test_colours_of_invisible_pixels_do_not_bleed_in() -> None:
    image = rectangle(50, 50, 100, 100)
    image[image[..., 3] == 0] = (0, 255, 0, 0)
    image[50:150:2, 50:150] = (0, 255, 0, 0)
    image[50, 50:150] = (200, 40, 20, 255)
    made = sprites.fitted(image, 16).astype(int)
    assert (made[..., 1] < made[..., 0]).all()


def test_an_invisible_subject_is_an_error() -> None:
    with pytest.raises(ValueError, match="visible"):
        sprites.fitted(rectangle(10, 10, 50, 50, alpha=sprites.SEEN), 64)


def sprite_of(alpha: NDArray[np.bool_]) -> NDArray[np.uint8]:
    return np.repeat(alpha[..., None] * np.uint8(255), 4, 2)


def test_the_contact_is_where_the_lowest_part_of_a_subject_stands() -> None:
    rows, columns = np.mgrid[:100, :100] / 100
    everywhere = sprite_of(rows >= 0)
    assert sprites.contact(everywhere) == pytest.approx((0, 0.5), abs=0.01)
    one_leg = sprite_of((rows < 0.7) | ((columns >= 0.1) & (columns < 0.3)))
    assert sprites.contact(one_leg) == pytest.approx((-0.3, 0.1), abs=0.01)
    two_legs = sprite_of((rows < 0.7) | (columns < 0.2) | (columns >= 0.8))
    assert sprites.contact(two_legs) == pytest.approx((0, 0.7), abs=0.02)
    # Of a flat subject less counts: the share is of its height.
    flat = sprite_of((rows > 0.9) & (np.abs(columns - 0.5) < (1 - rows) * 5))
    tall = sprite_of(np.abs(columns - 0.5) < (1 - rows) * 0.5)
    assert sprites.contact(flat)[1] < 0.12
    assert sprites.contact(tall)[1] < 0.09


def test_a_sprite_holds_every_size_one_after_another() -> None:
    pytest.importorskip("resvg_py")
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32">'
        '<path d="M8 4h16v24h-16z" fill="#c81e3c"/></svg>'
    )
    pixels, (middle, half) = sprites.sprite(svg)
    assert pixels.dtype == np.int32 and pixels.shape == (sprites.LENGTH,)
    for start, edge in zip(sprites.OFFSETS, EDGES, strict=True):
        size = edge * sprites.CELL
        square = pixels[start : start + size**2].view(np.uint8).reshape(size, size, 4)
        # Two thirds as wide as high.
        expected = (0, size, round(size / 6), round(size * 5 / 6))
        assert extent(square[..., 3]) == pytest.approx(expected, abs=2)
        assert square[size // 2, size // 2].tolist() == [200, 30, 60, 255]
    assert (middle, half) == pytest.approx((0, 1 / 3), abs=0.01)
