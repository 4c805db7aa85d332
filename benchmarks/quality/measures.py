"""Measures of one image as pure functions of its pixels.

Images are float RGB [3, edge, edge] in 0..1.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.evaluation import nearest_place

BORDER = 24 / 1024
"""Width of the outer border, as a share of the edge."""
LUMA = (0.299, 0.587, 0.114)
BLACK_MEAN = 0.02
"""Mean luma below which an image is black; the darkest background, "black", has 0.096."""
BLACK_SPREAD = 0.005
"""Standard deviation of luma below which an image is black; every reference has 0.015 or more."""
DIFFERS = 0.15
"""RMS difference to the background above which a pixel belongs to the subject."""
CLEAR = 0.01
"""Largest share of the border that the subject may cover."""


def pooled(image: Tensor, edge: int) -> Tensor:
    """Averages squares of [..., 3, E, E] to [..., 3, edge, edge]; E is a multiple of edge."""
    return F.avg_pool2d(image, image.shape[-1] // edge)


def distances(image: Tensor, references: Tensor) -> Tensor:
    """Returns the RMS distances [N] of an image [3, E, E] to references [N, 3, E, E].

    Each is taken at the nearest of the four places where the model puts subjects.
    """
    return nearest_place(references, image)


def rank(distance: Tensor, right: int) -> int:
    """Counts the other distances [N] that are not greater than the right one's."""
    return int((distance <= distance[right]).sum()) - 1


def border_median(image: Tensor) -> Tensor:
    """Returns the median colour [3] of the outer border on all four sides."""
    return image[:, _border(image)].median(dim=1).values


def _border(image: Tensor) -> Tensor:
    """Returns the mask of the outer border, bool [E, E]."""
    edge = image.shape[-1]
    width = max(1, round(edge * BORDER))
    border = torch.ones((edge, edge), dtype=torch.bool, device=image.device)
    border[width:-width, width:-width] = False
    return border


def nearest_colour(colour: Tensor, palette: Tensor) -> int:
    """Returns the index of the colour in the palette [K, 3] nearest to `colour` [3]."""
    return int((palette - colour).square().sum(1).argmin())


def sharpness(image: Tensor, reference: Tensor) -> float:
    """Returns the image's mean gradient magnitude as a share of the reference's; both [3, E, E].

    Below 1 the image is blurred; above 1 it has edges or noise that the reference lacks.
    """
    return float(_gradient(image) / _gradient(reference))


def _gradient(image: Tensor) -> Tensor:
    dy, dx = torch.gradient(image, dim=(1, 2))
    return (dx.square() + dy.square()).sqrt().mean()


def off_centre(image: Tensor) -> float | None:
    """Returns how far the subject's bounding box is off centre on the worse axis.

    The subject is what differs from the border's median colour.

    Returns:
        A share of the edge, or None if there is no subject or it reaches into the border, as noise
        does.
    """
    ground = border_median(image)[:, None, None]
    subject = (image - ground).square().mean(0).sqrt() > DIFFERS
    if not subject.any() or subject[_border(image)].float().mean() > CLEAR:
        return None
    offsets = []
    for axis in (0, 1):
        filled = subject.any(axis).nonzero().flatten()
        middle = (int(filled[0]) + int(filled[-1]) + 1) / 2
        offsets.append(abs(middle / image.shape[-1] - 0.5))
    return max(offsets)


def is_black(image: Tensor) -> bool:
    """Returns True if the image shows nothing: no light, or no contrast."""
    luma = torch.einsum("chw,c->hw", image, image.new_tensor(LUMA))
    return bool(luma.mean() < BLACK_MEAN or luma.std() < BLACK_SPREAD)


def psnr(image: Tensor, truth: Tensor) -> float:
    """Returns the peak signal-to-noise ratio in dB of two images [3, E, E]."""
    error = (image - truth).square().mean().clamp_min(1e-10)
    return float(-10 * error.log10())
