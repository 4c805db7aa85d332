"""The registry of settings and what one painted scene holds."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from training.data.render import Pixels
from training.data.scenes.anchors import Stage
from training.data.scenes.colour import LIGHTS, Colour, Light, Tint
from training.data.scenes.painting import SIZE, Painting, box
from training.data.scenes.raster import raster

DAYTIMES = {"day": "day", "sunset": "sunset", "night": "night"}
"""The usual lights: the name a caption knows to the key in `colour.LIGHTS`."""


@dataclass(slots=True)
class Layers:
    """The canvas of a painter: two layers, the light, and its source of random numbers.

    A painter may replace `tint`, which starts as the light's own, and say with `front_top` that
    its front layer is empty above that height in px.
    """

    light: Light
    rng: random.Random
    tint: Tint
    back: Painting = field(default_factory=Painting)
    front: Painting = field(default_factory=Painting)
    front_top: int = 0


Painter = Callable[[Layers], Stage]


@dataclass(frozen=True, slots=True)
class Setting:
    """One kind of scene: its name, its lights by the captions' names, and its painter."""

    name: str
    lights: Mapping[str, str]
    painter: Painter


SETTINGS: dict[str, Setting] = {}
"""All settings by name, filled when the painters' modules are imported."""


def setting(lights: Mapping[str, str] | None = None) -> Callable[[Painter], Painter]:
    """Registers a painter as the setting of its function's name, "_" read as a space."""

    def register(painter: Painter) -> Painter:
        name = painter.__name__.replace("_", " ")
        SETTINGS[name] = Setting(name, dict(lights or DAYTIMES), painter)
        return painter

    return register


@dataclass(frozen=True, slots=True)
class Scene:
    """One painted scene.

    Attributes:
        setting: A key of SETTINGS.
        light: One of the setting's lights.
        seed: What the scene was painted from.
        back: SVG document behind the subjects; it fills the frame.
        front: SVG document before the subjects, mostly transparent.
        front_top: Height in px above which the front layer is empty.
        stage: Where subjects stand.
        tint: Affine map on the subjects' colours.
        shade: Colour of contact shadows, sRGB 0-255.
    """

    setting: str
    light: str
    seed: int
    back: str
    front: str
    front_top: int
    stage: Stage
    tint: Tint
    shade: Colour

    def pixels(self, size: int = SIZE) -> tuple[NDArray[np.uint8], Pixels]:
        """Both layers rendered: [size, size, 3] RGB and [size, size, 4] RGBA, uint8."""
        front = np.zeros((size, size, 4), np.uint8)
        if "<path" in self.front:
            top = self.front_top * size // SIZE
            front[top:] = raster(self.front, size, self.front_top)
        return np.ascontiguousarray(raster(self.back, size)[..., :3]), front


def paint(setting: str, light: str, seed: int) -> Scene:
    """The scene of a setting, a light and a seed; the same text on every machine.

    Raises:
        KeyError: There is no such setting, or it has no such light.
    """
    entry = SETTINGS[setting]
    chosen = LIGHTS[entry.lights[light]]
    # Strings are hashed with SHA-512 by `random`, so the sequence does not depend on the process.
    layers = Layers(chosen, random.Random(f"{setting}/{light}/{seed}"), chosen.tint)
    stage = entry.painter(layers)
    return Scene(
        setting,
        light,
        seed,
        layers.back.svg(),
        layers.front.svg(),
        layers.front_top,
        stage,
        layers.tint,
        chosen.shade,
    )


def plain(colour: Colour) -> Scene:
    """A plain background, sRGB 0-255: subjects float and cast no shadow."""
    back = Painting()
    back.add(box(0, 0, SIZE, SIZE), colour)
    day = LIGHTS["day"]
    stage = Stage(ground=None, plain=True)
    return Scene("plain", "day", 0, back.svg(), Painting().svg(), 0, stage, day.tint, day.shade)
