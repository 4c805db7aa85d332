"""Draws the emoji at full size, as tensors.

Owns the fan-out over processes; the renderer and the SVGs are `training.data`'s.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from training.data.concepts import Concept
from training.data.images import svg_name
from training.data.render import render

SIZE = 1024


def _draw(svg: str) -> np.ndarray:
    return render(svg, SIZE)


def draw_sets(
    cache: Path, names: Sequence[str], concepts: list[Concept], workers: int, device: torch.device
) -> list[Tensor]:
    """[concepts, 4, 1024, 1024] uint8 straight RGBA per set; `cache` holds svg.zip."""
    with zipfile.ZipFile(cache / "svg.zip") as archive:
        svgs = [archive.read(svg_name(name, c.code)).decode() for name in names for c in concepts]
    drawn = torch.empty((len(svgs), 4, SIZE, SIZE), dtype=torch.uint8, device=device)
    with ProcessPoolExecutor(workers) as pool:
        for index, image in enumerate(pool.map(_draw, svgs, chunksize=4)):
            drawn[index] = torch.from_numpy(image).permute(2, 0, 1)
    return list(drawn.split(len(concepts)))
