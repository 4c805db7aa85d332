"""Renders subjects and scenes in parallel processes, and lays out where subjects may stand."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.composition import BOX, SIZE, Images, Shown
from training.data import sprites
from training.data.concepts import Concept
from training.data.images import svg_name
from training.data.scenes import LAYOUTS, PLACES, Scene, Stage, arrange
from training.data.scenes.anchors import MAX_SUBJECTS
from training.grounds import Kind, kinds, render_all, scene_of
from training.rendering_cache import kept

PARTS = len(BOX) - 2
"""Columns of `Shown.boxes` that do not depend on the subject."""


class Rendered(NamedTuple):
    """What images are composed of, and where."""

    images: Images
    contacts: Tensor
    """Where each subject touches the ground [C, 2], as `sprites.contact`."""
    boxes: Tensor
    """Boxes of every ground, layout and place [G, L, P, 4, PARTS], from far to near."""
    subject: Tensor
    """Number of the subject in each box, 0 or 1 [G, L, P, 4]."""
    first: Tensor
    """Index of the first ground of each kind [K]."""
    variants: Tensor
    """Number of grounds of each kind [K]; they follow one another."""

    def show(
        self, ground: Tensor, layout: Tensor, place: Tensor, concepts: Tensor, paints: Tensor
    ) -> Shown:
        """Looks up the boxes of a batch.

        Args:
            ground: Index of the scene [B].
            layout: Index in LAYOUTS [B].
            place: 0 to PLACES - 1 [B].
            concepts: First and second subject [B, 2]; equal where there is one, any where none.
            paints: Their colours [B, 2, 3]; negative for their own.
        """
        boxes = self.boxes[ground, layout, place]
        subject = self.subject[ground, layout, place]
        own = concepts.gather(1, subject)
        painted = paints.gather(1, subject[:, :, None].expand(-1, -1, 3))
        return Shown(ground, own, torch.cat([boxes, self.contacts[own]], -1), painted)


def _table(stages: Sequence[Stage]) -> tuple[Tensor, Tensor]:
    """Returns `Rendered.boxes` and `Rendered.subject`."""
    shape = (len(stages), len(LAYOUTS), PLACES, MAX_SUBJECTS)
    boxes, subject = np.zeros((*shape, PARTS), np.float32), np.zeros(shape, np.int64)
    known: dict[Stage, int] = {}
    for g, stage in enumerate(stages):
        if stage in known:
            boxes[g], subject[g] = boxes[known[stage]], subject[known[stage]]
            continue
        known[stage] = g
        for k, layout in enumerate(LAYOUTS):
            for place in range(PLACES):
                placed = list(enumerate(arrange(stage, layout, place)))
                for n, (which, a) in enumerate(sorted(placed, key=lambda pair: pair[1].base)):
                    boxes[g, k, place, n] = a.left, a.top, a.edge, a.sink, a.shadow, a.foam
                    subject[g, k, place, n] = which if layout.count == 2 else 0
    return torch.from_numpy(boxes), torch.from_numpy(subject)


def _subjects(svgs: Sequence[str], workers: int) -> dict[str, Tensor]:
    """Renders subjects: `Images.sprites` and `Rendered.contacts`."""
    pixels = torch.empty((len(svgs), sprites.LENGTH), dtype=torch.int32)
    contacts = []
    with ProcessPoolExecutor(workers) as pool:
        for index, (image, contact) in enumerate(pool.map(sprites.sprite, svgs, chunksize=2)):
            pixels[index] = torch.from_numpy(image)
            contacts.append(contact)
    return {"sprites": pixels, "contacts": torch.tensor(contacts)}


def _layers(scenes: Sequence[Scene], workers: int) -> dict[str, Tensor]:
    """Renders scenes: `Images.backs` and `Images.fronts`."""
    rendered = render_all(scenes, workers)
    backs, fronts = (torch.empty((len(scenes), SIZE, SIZE), dtype=torch.int32) for _ in range(2))
    for row, (back, front) in enumerate(rendered):
        backs[row], fronts[row] = torch.from_numpy(back), torch.from_numpy(front)
    return {"backs": backs, "fronts": fronts}


def render(
    cache: Path,
    name: str,
    concepts: Sequence[Concept],
    *,
    variants: Sequence[int],
    device: torch.device,
    workers: int = 0,
    chosen: Sequence[Kind] | None = None,
    keep: bool = False,
) -> Rendered:
    """Renders all that a look needs, or reads what an earlier run kept.

    Args:
        cache: Folder with svg.zip.
        name: Icon set of the subjects.
        concepts: Subjects, in the order of the result.
        variants: Seeds of each scene.
        device: Device of the result.
        workers: Processes; 0 for one per CPU core.
        chosen: Grounds to render; all where None.
        keep: Keeps the images below `cache` for the next run: gigabytes for a whole look.
    """
    workers = workers or len(os.sched_getaffinity(0))
    grounds = kinds() if chosen is None else tuple(chosen)
    scenes: list[Scene] = []
    first, counts = [], []
    for kind in grounds:
        own = [scene_of(kind, seed) for seed in variants[: 1 if kind.colour >= 0 else None]]
        first.append(len(scenes))
        counts.append(len(own))
        scenes += own
    with zipfile.ZipFile(cache / "svg.zip") as archive:
        svgs = [archive.read(svg_name(name, c.code)).decode() for c in concepts]

    def made(parts: Sequence[str], make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        if keep:
            return kept(cache / "rendered", parts, make, device)
        return {name: value.to(device) for name, value in make().items()}

    texts = [text for scene in scenes for text in (scene.back, scene.front)]
    layers = made(texts, lambda: _layers(scenes, workers))
    subjects = made(svgs, lambda: _subjects(svgs, workers))
    images = Images(
        layers["backs"],
        layers["fronts"],
        torch.tensor([scene.tint for scene in scenes], dtype=torch.float32, device=device),
        torch.tensor([scene.shade for scene in scenes], dtype=torch.float32, device=device) / 255,
        subjects["sprites"],
    )
    boxes, subject = _table([scene.stage for scene in scenes])
    return Rendered(
        images,
        subjects["contacts"],
        boxes.to(device),
        subject.to(device),
        torch.tensor(first, device=device),
        torch.tensor(counts, device=device),
    )
