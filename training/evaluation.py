"""Says how good a model's images are while training, on the device that trains.

Owns an exam: fixed prompts and noise, drawn in batches and compared with the renderings. What a
release is measured with is `make bench-quality`, which asks the product itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from training import sampling
from training.latents import PLACES, Codec, colours
from training.network import TOKENS
from training.prompts import Pool
from training.text_encoder import encode

BATCH = 8
"""Images drawn and decoded at once."""


class Scores(NamedTuple):
    """Shares of an evaluation, 0..1, and the mean distance to the right reference (RMS, 0..1)."""

    top1: float
    top5: float
    colour: float
    distance: float


def nearest_place(references: Tensor, image: Tensor) -> Tensor:
    """RMS distance of an image to each reference in the nearest of its places.

    Args:
        references: [N, 3, E, E], in the middle.
        image: [3, E, E].

    Returns:
        [N]. A place moves the image by whole pixels at E = 64; what comes in is its edge again.
    """
    edge = image.shape[-1]
    reach = round(max(map(max, PLACES)) * edge)
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    distances = []
    for shift in PLACES:
        x, y = (round(part * edge) + reach for part in shift)
        # Moving the one image back is cheaper than moving every reference.
        back = padded[:, y : y + edge, x : x + edge]
        distances.append((references - back).square().flatten(1).mean(1))
    return torch.stack(distances).amin(0).sqrt()


def rank(
    small: Tensor, references: Tensor, concept: Tensor, colour: Tensor
) -> tuple[Tensor, Tensor]:
    """How many references lie nearer than the right one [B], and the distance to that one.

    Args:
        small: images [B, 3, 64, 64], 0..1.
        references: `latents.references`.
        concept: what each shows.
        colour: its background.
    """
    ranks, distances = [], []
    for image, right, ground in zip(small, concept, colour, strict=True):
        distance = nearest_place(references[ground], image)
        ranks.append((distance < distance[right]).sum())
        distances.append(distance[right])
    return torch.stack(ranks), torch.stack(distances)


def ground_of(rgb: Tensor) -> Tensor:
    """Index of the named background nearest to the median of the outermost 24 px."""
    edge = torch.cat([rgb[..., :24, :].flatten(2), rgb[..., -24:, :].flatten(2)], dim=2)
    median = edge.median(dim=2).values
    return torch.cdist(median, colours(rgb.device)).argmin(1)


def save_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Images [N, 3, E, E] in 0..1, side by side, as JPEG."""
    rows = [torch.cat(list(row), dim=2) for row in images.split(columns) if len(row) == columns]
    sheet = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().byte()
    Image.fromarray(sheet.permute(1, 2, 0).cpu().numpy()).save(path, quality=88)


class Exam:
    """Fixed prompts and fixed noise, in batches of BATCH prompts of one length.

    Args:
        pool: where the prompts come from; each names its background.
        text: the text encoder (Qwen2.5-VL), already trained.
        codec: decodes.
        references: `latents.references`.
        count: how many prompts at least.
    """

    @torch.no_grad()
    def __init__(
        self, pool: Pool, text: nn.Module, codec: Codec, references: Tensor, count: int
    ) -> None:
        batches = range(0, count, BATCH)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.drawn = [pool.draw(BATCH) for _ in batches]
            self.noise = [torch.randn(BATCH, *TOKENS, device=references.device) for _ in batches]
        self.text = [encode(text, drawn.ids) for drawn in self.drawn]
        self._codec, self._references = codec, references

    @torch.no_grad()
    def __call__(self, network: nn.Module, steps: int, sheet: Path) -> Scores:
        """Draws in `steps` steps without guidance; saves the first 64 images as one."""
        small, grounds = [], []
        for text, noise in zip(self.text, self.noise, strict=True):

            def velocity(x: Tensor, sigma: Tensor, text: Tensor = text) -> Tensor:
                return network(x, text, sigma)

            # Compiling for another batch size would take longer than the exam.
            with torch.compiler.set_stance("force_eager"):
                latents = sampling.trajectory(velocity, noise, sampling.schedule(steps))
            rgb = self._codec.decode(latents)
            grounds.append(ground_of(rgb))
            small.append(F.interpolate(rgb, size=(256, 256), mode="area"))
        images = torch.cat(small)
        save_sheet(F.avg_pool2d(images[:64], 2), sheet)
        concept = torch.cat([drawn.concept for drawn in self.drawn])
        colour = torch.cat([drawn.colour for drawn in self.drawn])
        ranks, distances = rank(F.avg_pool2d(images, 4), self._references, concept, colour)
        right = torch.cat(grounds) == colour

        def share(values: Tensor) -> float:
            return round(float(values.float().mean()), 4)

        return Scores(share(ranks == 0), share(ranks < 5), share(right), share(distances))
