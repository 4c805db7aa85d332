"""Images for the judge with what they show: composed at random, and distorted.

Subjects stand where the generator's do and elsewhere: boxes are shifted off the grid, left out, or
given other concepts, so that the judge reads what is there and not what is usual.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.judge.distortions import distorted
from benchmarks.quality.judge.network import CELLS, EDGE
from training import composition
from training.composition import SIZE, Shown
from training.data.prose.paints import PAINTS
from training.data.scenes import LAYOUTS, PLACES
from training.data.scenes.anchors import CELLS as FRAME
from training.data.scenes.scene import DAYTIMES, SETTINGS
from training.grounds import Kind
from training.renderings import Rendered

WEIGHTS: Final = {0: 0.8, 1: 0.35, 2: 0.7, 3: 1.4, 4: 1.4}
"""Weight of a layout by its number of subjects."""
EQUAL, PAINTED, OTHERS, LEFT_OUT = 0.4, 0.3, 0.3, 0.2
"""Shares of images with equal subjects, with painted ones, with other concepts in every box, and
with boxes left out."""
NEAR: Final = 0.18
"""Distance from a box's middle, as a share of its edge, up to which a cell names its concept."""
UNSAID: Final = 0.3
"""The same up to which a cell may or may not hold the middle."""
NONE: Final = -100
"""Label that does not count."""


class Labels(NamedTuple):
    """What a batch of images shows; NONE where something does not apply."""

    setting: Tensor
    """[B]; the last class is a plain background."""
    light: Tensor
    """[B]."""
    colour: Tensor
    """[B]."""
    there: Tensor
    """[B, CELLS, CELLS] float32: 1 where a box has its middle, 0 where none is, -1 unsaid."""
    edge: Tensor
    """[B, CELLS, CELLS] float32, as a share of the frame."""
    paint: Tensor
    """[B, CELLS, CELLS]."""
    concept: Tensor
    """[B, CELLS, CELLS]."""


class Sampler:
    """Makes batches.

    Args:
        rendered: Subjects and grounds.
        kinds: The grounds' kinds.
        compiled: Compiles the composition.
        distorted: False shows what the generator should show: on the grid, and undistorted.
    """

    def __init__(
        self, rendered: Rendered, kinds: tuple[Kind, ...], *, compiled: bool, distorted: bool
    ) -> None:
        self._rendered, self._distorted = rendered, distorted
        device = self._device = rendered.contacts.device
        settings, lights = list(SETTINGS), list(DAYTIMES)
        facts = [
            (
                settings.index(kind.setting) if kind.setting else len(settings),
                lights.index(kind.light) if kind.light else NONE,
                kind.colour if kind.colour >= 0 else NONE,
            )
            for kind in kinds
        ]
        self._facts = torch.tensor(facts, device=device)
        self._chances = torch.tensor([WEIGHTS[layout.count] for layout in LAYOUTS], device=device)
        self._palette = composition.palette(device)
        self._compose = torch.compile(composition.compose) if compiled else composition.compose

    def _rand(self, *shape: int) -> Tensor:
        return torch.rand(shape, device=self._device)

    def _randint(self, high: int, *shape: int) -> Tensor:
        return torch.randint(high, shape, device=self._device)

    def _shown(self, count: int) -> tuple[Shown, Tensor, Tensor]:
        """Returns what images show, the indices of their kinds, and of their paints [B, N]."""
        r = self._rendered
        concepts = len(r.contacts)
        kind = self._randint(len(r.first), count)
        variant = (self._rand(count) * r.variants[kind]).long()
        pair = self._randint(concepts, count, 2)
        pair[:, 1] = torch.where(self._rand(count) < EQUAL, pair[:, 0], pair[:, 1])
        paint = self._randint(len(PAINTS), count, 2)
        paint = torch.where(self._rand(count, 1) < PAINTED, paint, -1)
        layout = self._chances.multinomial(count, replacement=True)
        # Numbers stand for the paints' colours until the boxes are looked up.
        numbers = paint[:, :, None].expand(-1, -1, 3).float()
        place = self._randint(PLACES, count)
        shown = r.show(r.first[kind] + variant, layout, place, pair, numbers)
        own, boxes, paints = shown.concepts, shown.boxes, shown.paints[..., 0].long()
        if self._distorted:
            others = self._rand(count, 1) < OTHERS
            own = torch.where(others, self._randint(concepts, *own.shape), own)
            left_out = (self._rand(count, 1) < LEFT_OUT) & (self._rand(*own.shape) < 0.4)
            boxes = torch.cat([boxes[..., :-2], r.contacts[own]], -1)
            boxes[..., :2] += self._rand(*own.shape, 2) * 1.4 - 0.7
            boxes[..., 2] = torch.where(left_out, 0.0, boxes[..., 2])
        return Shown(shown.ground, own, boxes, self._palette[paints]), kind, paints

    @torch.no_grad()
    def __call__(self, count: int) -> tuple[Tensor, Labels]:
        """Returns images [B, 3, EDGE, EDGE] in 0..1 and their labels."""
        shown, kind, paints = self._shown(count)
        corner = torch.zeros_like(kind)
        rgb = F.avg_pool2d(self._compose(self._rendered.images, shown, corner, corner, SIZE), 4)
        scale, shift = self._rand(count).new_ones(count), torch.zeros_like(self._rand(count, 2))
        if self._distorted:
            scale, shift = 0.84 + 0.34 * self._rand(count), 0.16 * self._rand(count, 2) - 0.08
            rgb = _moved(rgb, scale, shift)
            rgb = distorted(rgb)
        else:
            rgb = resized(rgb)
        return rgb, self._labels(shown, kind, paints, scale, shift)

    def _labels(
        self, shown: Shown, kind: Tensor, paints: Tensor, scale: Tensor, shift: Tensor
    ) -> Labels:
        setting, light, colour = self._facts[kind].unbind(1)
        # Middles and edges as shares of the frame, after it was scaled and shifted.
        edge = shown.boxes[..., 2] / FRAME
        middle = (shown.boxes[..., :2] / FRAME + edge[..., None] / 2) * 2 - 1
        middle = ((middle - shift[:, None]) / scale[:, None, None] + 1) / 2
        edge = edge / scale[:, None]
        line = (torch.arange(CELLS, device=self._device) + 0.5) / CELLS
        far = torch.maximum(
            (line[None, None, None, :] - middle[..., 0, None, None]).abs(),
            (line[None, None, :, None] - middle[..., 1, None, None]).abs(),
        )
        present = (edge > 0)[..., None, None]
        share = torch.where(present, far / edge.clamp(min=1e-3)[..., None, None], 9.0)
        nearest = share.argmin(1, keepdim=True)
        share = share.gather(1, nearest)[:, 0]
        # A middle may lie on a border between cells: it belongs to one of them.
        cell = (middle * CELLS).floor().long()
        index = torch.arange(CELLS, device=self._device)
        holding = (index[None, None, :, None] == cell[..., 1, None, None]) & (
            index[None, None, None, :] == cell[..., 0, None, None]
        )
        holds = (holding & present).any(1)

        def of_box(values: Tensor) -> Tensor:
            wide = values[:, :, None, None].expand(-1, -1, CELLS, CELLS)
            return wide.gather(1, nearest)[:, 0]

        there = torch.where(holds, 1.0, torch.where(share < UNSAID, -1.0, 0.0))
        near = holds | (share < NEAR)
        paint = torch.where(near, of_box(paints), NONE)
        return Labels(
            setting,
            light,
            colour,
            there,
            torch.where(near, of_box(edge), -1.0),
            torch.where(paint < 0, NONE, paint),
            torch.where(near, of_box(shown.concepts), NONE),
        )


def resized(images: Tensor) -> Tensor:
    """Resizes [B, 3, E, E] to EDGE."""
    size = (EDGE, EDGE)
    return F.interpolate(images, size, mode="bilinear", antialias=True).clamp(0, 1)


def _moved(images: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Shows scaled and shifted parts of images, EDGE px wide."""
    count = len(images)
    theta = torch.zeros(count, 2, 3, device=images.device)
    theta[:, 0, 0] = theta[:, 1, 1] = scale
    theta[:, :, 2] = shift
    grid = F.affine_grid(theta, [count, 3, EDGE, EDGE], align_corners=False)
    return F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
