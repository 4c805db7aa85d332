"""Finds images that are not clean: speckle, broken frames, black ones.

Speckle is high-frequency energy of colour in flat places. It is looked for twice.

*Everywhere* (`speckle`): second differences are taken along rows and along columns, and of the two
the smaller counts: an edge or a line bends in one direction, speckle in both. The median over a
tile passes over what is sparse (stars, rain, snow), and only the flatter half of the tiles counts,
so that leaves and waves do not. The mean over these is taken at several scales.

*Somewhere* (`worst_places`): colour speckle, or bands beside an outline, in one place of an
otherwise clean image. The value is that of the WORST-th of many overlapping tiles, so that a few
may show a subject's small parts. Grains of one or two px are found by the median second difference.
For wider ones it says little, as flowers and leaves have it too. What a median filter of 5 px takes
from the colours is nothing on a gradient and on an edge, little where details are sparse, and much
under speckle. Dense detail that is meant has sharp edges, the ripples of a decoder are soft: so the
median of what the filter takes is divided by a power of the sharpness, the RMS of the second
differences in full size.

Each value has a bar above what composed renderings and their reconstructions by the VAE show
(`calibration`). Blur and soft halos around a subject are no speckle, and faint ripples stay below
the bars.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.measures import is_black, pooled

EDGE: Final = 512
"""Edge of the measured images in px."""
SCALES: Final = (512, 256, 128)
"""Edges at which speckle is looked for: grains of one or two px, and of up to eight."""
TILES: Final = 16
"""Tiles along an edge."""
FLATTEST: Final = 0.5
"""Share of the tiles that count as flat places."""
SOMEWHERE: Final = 256
"""Edge at which worst places are looked for."""
PLACE: Final = 16
"""Edge of its overlapping tiles, at SOMEWHERE."""
FILTER: Final = 5
"""Edge of the median filter, at SOMEWHERE: half a latent pixel and more."""
SHARPNESS: Final = 0.4
"""Power of the sharpness that forgives detail; chosen on images looked at one by one."""
WORST: Final = 12
"""Rank of the tile that counts."""
LEAST: Final = 1e-3
"""Detail and sharpness below which tiles are alike; a step of 8-bit colours is four times it."""
SEAM: Final = 32
"""Distance in px of the borders between the transformer's tokens, at EDGE."""
BARS: Final = Path(__file__).with_name("clean.json")
"""What `calibration` found."""


def _planes(image: Tensor) -> Tensor:
    """Two differences of colour [2, E, E], which are zero for greys."""
    red, green, blue = image
    return torch.stack([(red - green) / 2, (red + green) / 4 - blue / 2])


def _bends(planes: Tensor) -> Tensor:
    """Smaller of the second differences along rows and columns [C, E - 2, E - 2]."""
    middle = 2 * planes[:, 1:-1, 1:-1]
    rows = (middle - planes[:, 1:-1, :-2] - planes[:, 1:-1, 2:]).abs()
    columns = (middle - planes[:, :-2, 1:-1] - planes[:, 2:, 1:-1]).abs()
    return torch.minimum(rows, columns)


def _tiles(plane: Tensor, edge: int) -> Tensor:
    """Cuts [C, E, E] into squares: [C, n, n, edge * edge]."""
    cut = plane.unfold(1, edge, edge).unfold(2, edge, edge)
    return cut.flatten(3)


def speckle(image: Tensor) -> tuple[float, ...]:
    """Returns the energy of speckle in flat places at each of SCALES; see the module.

    Args:
        image: RGB [3, EDGE, EDGE] in 0..1.
    """
    means = pooled(image, EDGE // 8)
    rough = _tiles(means, EDGE // 8 // TILES).std(-1).norm(dim=0).flatten()
    flat = rough.argsort()[: int(FLATTEST * len(rough))]
    found = []
    for edge in SCALES:
        bends = F.pad(_bends(_planes(pooled(image, edge))), (1, 1, 1, 1), mode="replicate")
        medians = _tiles(bends, edge // TILES).median(-1).values.norm(dim=0).flatten()
        found.append(float(medians[flat].mean()))
    return tuple(found)


def _places(plane: Tensor, edge: int) -> Tensor:
    """Cuts [E, E] into squares that overlap by half: [n, n, edge * edge]."""
    return plane.unfold(0, edge, edge // 2).unfold(1, edge, edge // 2).flatten(2)


def worst_places(image: Tensor) -> tuple[float, ...]:
    """Returns the speckle of the worst places: grains of 1 px, of 2 px, and wider; see the module.

    Args:
        image: RGB [3, EDGE, EDGE] in 0..1.
    """
    half = _planes(pooled(image, SOMEWHERE))
    fine, coarse = (
        _places(F.pad(_bends(planes), (1, 1, 1, 1), mode="replicate").norm(dim=0), edge)
        for planes, edge in ((_planes(image), PLACE * EDGE // SOMEWHERE), (half, PLACE))
    )
    around = F.pad(half[None], (FILTER // 2,) * 4, mode="reflect")[0]
    filtered = around.unfold(1, FILTER, 1).unfold(2, FILTER, 1).flatten(3).median(-1).values
    detail = _places((half - filtered).norm(dim=0), PLACE).median(-1).values
    sharp = fine.square().mean(-1).sqrt()
    wider = (detail + LEAST) / (sharp + LEAST) ** SHARPNESS
    found = (fine.median(-1).values, coarse.median(-1).values, wider)
    return tuple(float(tiles.flatten().topk(WORST).values[-1]) for tiles in found)


def seams(image: Tensor) -> float:
    """Returns how much steeper the image is across the borders of tokens than beside them.

    Medians along a border and over the borders: a horizon or a wall that lies on one border is no
    fault, a grid is.

    Args:
        image: RGB [3, EDGE, EDGE] in 0..1.
    """
    found = []
    for across in (image, image.transpose(1, 2)):
        steps = across.diff(dim=2).abs().amax(0)
        border = torch.arange(SEAM - 1, EDGE - 1, SEAM, device=image.device)
        beside = torch.maximum(steps[:, border - 1], steps[:, border + 1])
        found.append(float((steps[:, border] - beside).median(0).values.median()))
    return max(found)


@dataclass(frozen=True, slots=True)
class Bars:
    """The largest values of clean images."""

    speckle: tuple[float, ...]
    worst_places: tuple[float, ...]
    seams: float

    @classmethod
    def read(cls, path: Path = BARS) -> Bars:
        """Reads what `calibration` wrote."""
        facts = json.loads(path.read_text(encoding="utf-8"))["bars"]
        return cls(tuple(facts["speckle"]), tuple(facts["worst_places"]), facts["seams"])

    def is_speckled(self, image: Tensor) -> bool:
        """Returns True if an image [3, EDGE, EDGE] in 0..1 is over a bar, anywhere."""
        everywhere = zip(speckle(image), self.speckle, strict=True)
        somewhere = zip(worst_places(image), self.worst_places, strict=True)
        return any(value > bar for value, bar in (*everywhere, *somewhere))

    def fault(self, image: Tensor | None) -> str:
        """Returns what is wrong with an image, uint8 [3, EDGE, EDGE]: "" for a clean one."""
        if image is None:
            return "missing"
        image = image.float() / 255
        if is_black(image):
            return "black"
        if self.is_speckled(image):
            return "speckle"
        return "seams" if seams(image) > self.seams else ""
