"""Renders the emoji of svg.zip at full size, as tensors, in parallel processes."""

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


def _render(svg: str) -> np.ndarray:
    return render(svg, SIZE)


def render_sets(
    cache: Path,
    names: Sequence[str],
    concepts: list[Concept],
    *,
    workers: int,
    device: torch.device,
) -> list[Tensor]:
    """Renders all concepts of some sets.

    Args:
        cache: Folder with svg.zip.
        names: Sets.
        concepts: Concepts, in the order of the result.
        workers: Number of processes.
        device: Device of the result.

    Returns:
        For each set [concepts, 4, 1024, 1024] uint8, RGBA with straight alpha.
    """
    with zipfile.ZipFile(cache / "svg.zip") as archive:
        svgs = [archive.read(svg_name(name, c.code)).decode() for name in names for c in concepts]
    rendered = torch.empty((len(svgs), 4, SIZE, SIZE), dtype=torch.uint8, device=device)
    with ProcessPoolExecutor(workers) as pool:
        for index, image in enumerate(pool.map(_render, svgs, chunksize=4)):
            rendered[index] = torch.from_numpy(image).permute(2, 0, 1)
    return list(rendered.split(len(concepts)))
