"""What can be said of one image: pure functions of pixels.

Owns the arithmetic of every quality figure. Knows nothing of prompts, models or files. Images
are float RGB [3, edge, edge] in 0..1 throughout.
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
"""The darkest background, "black", has a luma of 0.096."""
BLACK_SPREAD = 0.005
"""Every concept on every background varies by 0.015 at least."""
DIFFERS = 0.15
"""RMS over the channels from which a pixel belongs to the subject."""
CLEAR = 0.01
"""Share of the border that may differ and is still a border."""


def pooled(image: Tensor, edge: int) -> Tensor:
    """[..., 3, E, E] averaged over squares to [..., 3, edge, edge]; E is a multiple of edge."""
    return F.avg_pool2d(image, image.shape[-1] // edge)


def distances(image: Tensor, references: Tensor) -> Tensor:
    """RMS differences [N] of an image [3, E, E] to references [N, 3, E, E], each in the nearest
    of the four places that the model generates in.
    """
    return nearest_place(references, image)


def rank(distance: Tensor, right: int) -> int:
    """How many of the distances [N] are not greater than the right one's, itself left out."""
    return int((distance <= distance[right]).sum()) - 1


def border_median(image: Tensor) -> Tensor:
    """The median colour [3] of all four sides' outer border."""
    return image[:, _border(image)].median(dim=1).values


def _border(image: Tensor) -> Tensor:
    """Where the outer border is, bool [E, E]."""
    edge = image.shape[-1]
    width = max(1, round(edge * BORDER))
    border = torch.ones((edge, edge), dtype=torch.bool, device=image.device)
    border[width:-width, width:-width] = False
    return border


def nearest_colour(colour: Tensor, palette: Tensor) -> int:
    """Index of the colour of the palette [K, 3] that is nearest to `colour` [3]."""
    return int((palette - colour).square().sum(1).argmin())


def sharpness(image: Tensor, reference: Tensor) -> float:
    """Mean gradient magnitude of the image, as a share of the reference's; both [3, E, E].

    Below 1 it is blurred; above 1 it has edges, or noise, that the generating has not.
    """
    return float(_gradient(image) / _gradient(reference))


def _gradient(image: Tensor) -> Tensor:
    dy, dx = torch.gradient(image, dim=(1, 2))
    return (dx.square() + dy.square()).sqrt().mean()


def off_centre(image: Tensor) -> float | None:
    """How far the subject's bounding box lies from the middle, in edges, on the worse axis.

    The subject is what differs from the border's median colour. None: there is no subject, or it
    reaches into the border, as noise does.
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
    """Whether there is nothing to see: no light, or no difference between any two places."""
    luma = torch.einsum("chw,c->hw", image, image.new_tensor(LUMA))
    return bool(luma.mean() < BLACK_MEAN or luma.std() < BLACK_SPREAD)


def psnr(image: Tensor, truth: Tensor) -> float:
    """Peak signal to noise ratio in dB of two images [3, E, E]."""
    error = (image - truth).square().mean().clamp_min(1e-10)
    return float(-10 * error.log10())
