"""A contact sheet: every setting in each of its lights, with a few subjects composed in."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from training.data.scenes.composing import batch_of, compose

from training.data import concepts, fetch, icons
from training.data.render import Pixels, render
from training.data.scenes.anchors import Anchor, arrange
from training.data.scenes.scene import SETTINGS, Scene, paint

SPRITE = 512
"""Edge of the rendered subjects in px."""

AFLOAT = {"sea": "sailboat", "lake": "sailboat", "river": "duck", "space": "rocket"}
"""Subjects that suit a setting better than one taken in turn."""
TURNS = ("fox", "cat", "dog", "house", "red apple", "rocket", "sailboat")


@dataclass(frozen=True, slots=True)
class Sprites:
    """Fluent Emoji renderings by English name, made when first needed."""

    names: dict[str, str]
    icons: icons.IconSet
    made: dict[str, Pixels]

    @classmethod
    def open(cls, cache: Path = fetch.CACHE) -> Sprites:
        """Reads the table and the icon set. Raises fetch.FetchError."""
        names = {concept.english: concept.icons["fluent"] for concept in concepts.read()}
        return cls(names, icons.open_sets(fetch.fetch_all(cache))["fluent"], {})

    def __getitem__(self, name: str) -> Pixels:
        """The subject, [SPRITE, SPRITE, 4] uint8. Raises KeyError."""
        if name not in self.made:
            self.made[name] = render(self.icons.svg(self.names[name]), SPRITE)
        return self.made[name]


def composed(scene: Scene, subjects: list[Pixels], placed: list[Anchor]) -> NDArray[np.uint8]:
    """One scene with its subjects, [1024, 1024, 3] uint8."""
    back, front = scene.pixels()
    image = compose(
        torch.from_numpy(back)[None],
        torch.from_numpy(front)[None],
        torch.from_numpy(np.stack(subjects))[None],
        *batch_of([scene], [placed]),
    )
    return image[0].numpy()


def cell(name: str, light: str, seed: int, sprites: Sprites, turn: int) -> NDArray[np.uint8]:
    """One image of the sheet: a scene with one or two subjects, chosen by `turn`."""
    scene = paint(name, light, seed)
    rng = random.Random(f"sheet/{name}/{light}/{seed}")
    first = AFLOAT.get(name, TURNS[turn % len(TURNS)])
    second = TURNS[(turn + 1) % len(TURNS)]
    kind = turn % 4
    if kind == 3:
        return composed(scene, [sprites[first], sprites[second]], arrange(rng, scene.stage, 2))
    placed = arrange(rng, scene.stage, size=("large", "medium", "small")[kind])
    return composed(scene, [sprites[first]], placed)


def sheet(
    seed: int, edge: int, columns: int, only: list[str] | None = None, cache: Path = fetch.CACHE
) -> Image.Image:
    """The contact sheet, `columns` images of `edge` px to a row.

    Args:
        seed: Of every scene.
        edge: Edge of one image in px.
        columns: Images to a row.
        only: Names of settings; all where None.
        cache: Folder of the fetched packages.
    """
    sprites = Sprites.open(cache)
    cells = [(name, light) for name in only or SETTINGS for light in SETTINGS[name].lights]
    rows = -(-len(cells) // columns)
    page = Image.new("RGB", (columns * (edge + 8), rows * (edge + 28)), "white")
    pen = ImageDraw.Draw(page)
    for i, (name, light) in enumerate(cells):
        image = Image.fromarray(cell(name, light, seed, sprites, i))
        spot = (i % columns * (edge + 8) + 4, i // columns * (edge + 28) + 4)
        page.paste(image.resize((edge, edge), Image.Resampling.LANCZOS), spot)
        pen.text((spot[0] + 2, spot[1] + edge + 4), f"{name}, {light}", fill=(70, 74, 84))
    return page
