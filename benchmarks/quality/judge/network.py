"""The judge's network: convolutions that read an image's scene, and its subjects cell by cell."""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training.data.captions import COLOURS
from training.data.prose.paints import PAINTS
from training.data.scenes.scene import DAYTIMES, SETTINGS
from training.encoder import Norm

EDGE: Final = 192
"""Edge of the judged images in px."""
CELLS: Final = 12
"""Cells along an edge of the map of subjects."""
WIDTHS: Final = (64, 128, 256)
DEPTHS: Final = (2, 3, 4)
"""Channels and blocks at 1/4, 1/8 and 1/16 of EDGE."""
GROUND: Final = (len(SETTINGS) + 1, len(DAYTIMES), len(COLOURS))
"""Classes of setting (the last one: a plain background), light, and colour of the background."""


class Block(nn.Module):
    """A wide convolution per channel and two layers per pixel, beside the identity."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = Norm(width)
        self.up, self.down = nn.Conv2d(width, 4 * width, 1), nn.Conv2d(4 * width, width, 1)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Same shape."""
        inner: Tensor = self.down(F.gelu(self.up(self.norm(self.wide(x)))))
        return x + inner


class Read(NamedTuple):
    """Logits."""

    setting: Tensor
    """[B, settings + 1]."""
    light: Tensor
    """[B, lights]."""
    colour: Tensor
    """[B, colours]."""
    there: Tensor
    """Of a subject's middle in each cell [B, CELLS, CELLS]."""
    edge: Tensor
    """Edge of the subject's box as a share of the frame, not a logit [B, CELLS, CELLS]."""
    paint: Tensor
    """[B, paints, CELLS, CELLS]."""
    concept: Tensor
    """[B, concepts, CELLS, CELLS]."""


class Judge(nn.Module):
    """Reads images [B, 3, EDGE, EDGE] in 0..1.

    Args:
        concepts: Number of concepts.
    """

    def __init__(self, concepts: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTHS[0], 4, stride=4)]
        before = WIDTHS[0]
        for width, depth in zip(WIDTHS, DEPTHS, strict=True):
            if width != before:
                layers += [Norm(before), nn.Conv2d(before, width, 2, stride=2)]
            layers += [Block(width) for _ in range(depth)]
            before = width
        self.layers = nn.Sequential(*layers, Norm(before))
        self.ground = nn.Linear(2 * before, sum(GROUND))
        self.cells = nn.Conv2d(before, 2 + len(PAINTS) + concepts, 1)

    def forward(self, images: Tensor) -> Read:
        """See the class."""
        x = self.layers((images - 0.5) * 4)
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)
        setting, light, colour = self.ground(pooled).split(GROUND, 1)
        there, edge, paint, concept = self.cells(x).split(
            (1, 1, len(PAINTS), self.cells.out_channels - 2 - len(PAINTS)), 1
        )
        return Read(setting, light, colour, there[:, 0], edge[:, 0].sigmoid(), paint, concept)
