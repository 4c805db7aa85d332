"""Scores a model's images during training, on the training device.

Generates images for fixed prompts and noise in batches and compares them with the renderings that
they should resemble. `make bench-quality` measures releases with the product's own engine.
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
"""Images generated and decoded at once."""


class Scores(NamedTuple):
    """Shares of an evaluation, 0..1, and the mean distance to the right reference (RMS, 0..1)."""

    top1: float
    top5: float
    colour: float
    distance: float


def nearest_place(references: Tensor, image: Tensor) -> Tensor:
    """Returns the RMS distance of an image to each reference, at the nearest of its PLACES.

    At E = 64 a place shifts the image by whole pixels. The edge is replicated into the margin.

    Args:
        references: [N, 3, E, E], centred.
        image: [3, E, E].

    Returns:
        Distances [N].
    """
    edge = image.shape[-1]
    reach = round(max(map(max, PLACES)) * edge)
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")[0]
    distances = []
    for shift in PLACES:
        x, y = (round(part * edge) + reach for part in shift)
        # Shifting the one image back is cheaper than shifting every reference.
        back = padded[:, y : y + edge, x : x + edge]
        distances.append((references - back).square().flatten(1).mean(1))
    return torch.stack(distances).amin(0).sqrt()


def rank(
    small: Tensor, references: Tensor, concept: Tensor, colour: Tensor
) -> tuple[Tensor, Tensor]:
    """Counts the references that are nearer than the right one.

    Args:
        small: Images [B, 3, 64, 64] in 0..1.
        references: As from `latents.references`.
        concept: Index of each image's concept [B].
        colour: Index of each image's background [B].

    Returns:
        The counts [B], and the distances to the right references [B].
    """
    ranks, distances = [], []
    for image, right, ground in zip(small, concept, colour, strict=True):
        distance = nearest_place(references[ground], image)
        ranks.append((distance < distance[right]).sum())
        distances.append(distance[right])
    return torch.stack(ranks), torch.stack(distances)


def ground_of(rgb: Tensor) -> Tensor:
    """Returns the index of the named background nearest to the median of the outer 24 px."""
    edge = torch.cat([rgb[..., :24, :].flatten(2), rgb[..., -24:, :].flatten(2)], dim=2)
    median = edge.median(dim=2).values
    return torch.cdist(median, colours(rgb.device)).argmin(1)


def save_sheet(images: Tensor, path: Path, columns: int = 8) -> None:
    """Saves images [N, 3, E, E] in 0..1 side by side as a JPEG."""
    rows = [torch.cat(list(row), dim=2) for row in images.split(columns) if len(row) == columns]
    sheet = (torch.cat(rows, dim=1).clamp(0, 1) * 255).round().byte()
    Image.fromarray(sheet.permute(1, 2, 0).cpu().numpy()).save(path, quality=88)


class Evaluator:
    """Scores networks on fixed prompts and noise, in batches of BATCH prompts of equal length.

    Args:
        pool: Source of the prompts, each of which names its background.
        text: The trained text encoder (Qwen2.5-VL).
        codec: Decoder of the latents.
        references: As from `latents.references`.
        count: Number of prompts, rounded up to whole batches.
    """

    @torch.no_grad()
    def __init__(
        self, pool: Pool, text: nn.Module, codec: Codec, *, references: Tensor, count: int
    ) -> None:
        batches = range(0, count, BATCH)
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.samples = [pool.sample(BATCH) for _ in batches]
            self.noise = [torch.randn(BATCH, *TOKENS, device=references.device) for _ in batches]
        self.text = [encode(text, sample.ids) for sample in self.samples]
        self._codec, self._references = codec, references

    @torch.no_grad()
    def __call__(self, network: nn.Module, steps: int, sheet: Path) -> Scores:
        """Generates in `steps` steps without guidance; saves the first 64 images as one sheet."""
        small, grounds = [], []
        for text, noise in zip(self.text, self.noise, strict=True):

            def velocity(x: Tensor, sigma: Tensor, text: Tensor = text) -> Tensor:
                return network(x, text, sigma)

            # Compiling for another batch size would take longer than the evaluation.
            with torch.compiler.set_stance("force_eager"):
                latents = sampling.trajectory(velocity, noise, sampling.schedule(steps))
            rgb = self._codec.decode(latents)
            grounds.append(ground_of(rgb))
            small.append(F.interpolate(rgb, size=(256, 256), mode="area"))
        images = torch.cat(small)
        save_sheet(F.avg_pool2d(images[:64], 2), sheet)
        concept = torch.cat([sample.concept for sample in self.samples])
        colour = torch.cat([sample.colour for sample in self.samples])
        ranks, distances = rank(F.avg_pool2d(images, 4), self._references, concept, colour)
        right = torch.cat(grounds) == colour

        def share(values: Tensor) -> float:
            return round(float(values.float().mean()), 4)

        return Scores(share(ranks == 0), share(ranks < 5), share(right), share(distances))
