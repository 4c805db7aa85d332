"""Measures of images as pure functions of their pixels.

Images are float RGB [..., 3, edge, edge] in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.styles import LUMA

SMALL = 128
"""Edge at which distances are computed: the model is not asked to agree in every pixel."""
BLACK_MEAN = 0.02
"""Mean luma below which an image is black; the darkest background, "black", has 0.096."""
BLACK_SPREAD = 0.005
"""Standard deviation of luma below which an image shows nothing."""


def pooled(image: Tensor, edge: int) -> Tensor:
    """Averages squares of [..., 3, E, E] to [..., 3, edge, edge]; E is a multiple of edge."""
    return F.avg_pool2d(image, image.shape[-1] // edge)


def distance(image: Tensor, truth: Tensor) -> float:
    """Returns the RMS distance of two images at SMALL px."""
    return float(distances(image, truth[None])[0])


def distances(image: Tensor, truths: Tensor) -> Tensor:
    """Returns the RMS distances [N] of an image [3, E, E] to others [N, 3, E, E], at SMALL px."""
    error = pooled(image, SMALL)[None] - pooled(truths, SMALL)
    return error.square().flatten(1).mean(1).sqrt()


def sharpness(image: Tensor, truth: Tensor) -> float:
    """Returns the image's mean gradient magnitude as a share of the right image's.

    Below 1 the image is blurred; above 1 it has edges or noise that the right one lacks.
    """
    return float(_gradient(image) / _gradient(truth))


def _gradient(image: Tensor) -> Tensor:
    dy, dx = torch.gradient(image, dim=(1, 2))
    return (dx.square() + dy.square()).sqrt().mean()


def luma(image: Tensor) -> Tensor:
    """Returns the brightness [..., E, E]."""
    return torch.einsum("...chw,c->...hw", image, image.new_tensor(LUMA))


def is_black(image: Tensor) -> bool:
    """Returns True if the image shows nothing: no light, or no contrast."""
    bright = luma(image)
    return bool(bright.mean() < BLACK_MEAN or bright.std() < BLACK_SPREAD)


def psnr(image: Tensor, truth: Tensor) -> float:
    """Returns the peak signal-to-noise ratio in dB of two images [3, E, E]."""
    error = (image - truth).square().mean().clamp_min(1e-10)
    return float(-10 * error.log10())
