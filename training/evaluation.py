"""Compares what a network draws with the images that its captions and noise stand for."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from training import sampling
from training.choices import choose
from training.network import TOKENS
from training.stream import Stream
from training.targets import Targets
from training.text_encoder import encode

SMALL = 128
"""Edge in px at which images are compared."""


class Scores(NamedTuple):
    """Mean distances to the right images (RMS, 0..1)."""

    distance: float
    worst: float
    """The largest tenth's mean."""


def save_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Saves images [N, 3, E, E] in 0..1 side by side as a JPEG."""
    rows = [torch.cat(list(row), dim=2) for row in images.split(columns) if len(row) == columns]
    sheet = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().byte()
    Image.fromarray(sheet.permute(1, 2, 0).cpu().numpy()).save(path, quality=88)


class Evaluator:
    """Scores networks on fixed captions and noise.

    Args:
        stream: Source of the captions, in small batches.
        text: The trained text encoder (Qwen2.5-VL).
        targets: Makes and decodes images.
        count: Number of captions, rounded up to whole batches.
    """

    @torch.no_grad()
    def __init__(self, stream: Stream, text: nn.Module, targets: Targets, count: int) -> None:
        self._targets, self._text, self._noise, self._right = targets, [], [], []
        generator = torch.Generator().manual_seed(7)
        while len(self._right) * len(self._right[0] if self._right else ()) < count:
            batch = stream()
            noise = torch.randn(len(batch.ids), *TOKENS, generator=generator).to(batch.ids.device)
            images = targets.images(targets.shown(batch.rows, choose(noise)))
            self._text.append(encode(text, batch.ids))
            self._noise.append(noise)
            self._right.append(F.interpolate(images, size=(2 * SMALL, 2 * SMALL), mode="area"))

    @torch.no_grad()
    def __call__(self, network: nn.Module, steps: int, sheet: Path) -> Scores:
        """Generates in `steps` steps without guidance; saves images below their targets."""
        drawn = []
        for text, noise in zip(self._text, self._noise, strict=True):

            def velocity(x: Tensor, sigma: Tensor, text: Tensor = text) -> Tensor:
                return network(x, text, sigma)

            # Compiling for another batch size would take longer than the evaluation.
            with torch.compiler.set_stance("force_eager"):
                packed = sampling.trajectory(velocity, noise, sampling.schedule(steps))
            rgb = self._targets.decode(packed)
            drawn.append(F.interpolate(rgb, size=(2 * SMALL, 2 * SMALL), mode="area"))
        right, images = torch.cat(self._right), torch.cat(drawn)
        pairs = torch.stack(
            [right[:40].unflatten(0, (-1, 8)), images[:40].unflatten(0, (-1, 8))], 1
        )
        save_sheet(pairs.flatten(0, 2), sheet)
        small = (F.avg_pool2d(x, 2) for x in (images, right))
        error = (next(small) - next(small)).square().flatten(1).mean(1).sqrt()
        worst = error.topk(max(1, len(error) // 10)).values
        return Scores(round(float(error.mean()), 4), round(float(worst.mean()), 4))
