"""The grounds on which training images show their subjects: scenes and plain backgrounds.

A scene is painted in few variants, among which an image's noise decides. What is painted without
end cannot be learned by a small model; it would draw the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from training.data.captions import COLOURS
from training.data.scenes import SETTINGS, Scene, paint, plain
from training.data.sprites import packed

VARIANTS: Final = 4
"""Painted variants of each scene that the model learns."""
HELD_OUT: Final = range(VARIANTS, VARIANTS + 2)
"""Seeds of variants for judging only."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What words say of a ground.

    Attributes:
        setting: A key of SETTINGS, or "" for a plain background.
        light: The setting's light, or "".
        colour: Index in COLOURS of a plain background, or -1.
    """

    setting: str = ""
    light: str = ""
    colour: int = -1


@cache
def kinds() -> tuple[Kind, ...]:
    """Returns all kinds of grounds: each setting in each of its lights, then plain backgrounds."""
    scenes = (Kind(name, light) for name, entry in SETTINGS.items() for light in entry.lights)
    return (*scenes, *(Kind(colour=index) for index in range(len(COLOURS))))


def scene_of(kind: Kind, variant: int) -> Scene:
    """Paints a ground; a plain background has one variant."""
    if kind.colour >= 0:
        return plain(COLOURS[kind.colour].rgb)
    return paint(kind.setting, kind.light, variant)


def render(scene: Scene) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Renders both layers [1024, 1024], packed and premultiplied as `composition.Images` says."""
    back, front = scene.pixels()
    opaque = np.concatenate([back, np.full((*back.shape[:2], 1), 255, np.uint8)], -1)
    veil = front.copy()
    alpha = front[..., 3:].astype(np.uint16)
    veil[..., :3] = (front[..., :3] * alpha + 127) // 255
    return packed(opaque), packed(veil)


def render_all(
    scenes: Sequence[Scene], workers: int
) -> list[tuple[NDArray[np.int32], NDArray[np.int32]]]:
    """Renders scenes in parallel processes."""
    with ProcessPoolExecutor(workers) as pool:
        return list(pool.map(render, scenes, chunksize=2))
