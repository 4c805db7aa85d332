"""What an image's noise decides where the words leave something open.

A network can read these rules off the noise in its first step. Where something else decided (the
end of the path, or a random draw), four steps drew several possibilities over one another, or all
seeds ended in the same one (docs/decisions.md). Base and few-step adapters learn the same rules, so
a seed means the same with and without them.
"""

from __future__ import annotations

from typing import Final, NamedTuple

import torch
from torch import Tensor

from training.data.scenes import PLACES
from training.grounds import VARIANTS

OPTIONS: Final = 8
"""Kinds of ground among which the noise decides where the words name none."""

_GROUP: Final = 4
"""Channels of a packed token in a group; the group with the greatest mean decides."""
_PARTS: Final = (OPTIONS, VARIANTS, PLACES)


class Choices(NamedTuple):
    """Choices for a batch, each [B]."""

    option: Tensor
    variant: Tensor
    place: Tensor


def choose(noise: Tensor) -> Choices:
    """Reads the choices off the starts of sampling paths [B, tokens, channels].

    Reordering the tokens of the noise does not change them.
    """
    groups = noise.float().mean(1).unflatten(1, (-1, _GROUP)).mean(2)
    option, variant, place = groups[:, : sum(_PARTS)].split(_PARTS, 1)
    return Choices(option.argmax(1), variant.argmax(1), place.argmax(1))


def shuffled(noise: Tensor) -> Tensor:
    """Returns noise that decides the same: every image's tokens in another order."""
    order = torch.rand(noise.shape[:2], device=noise.device).argsort(1)
    return noise.take_along_dim(order[:, :, None], 1)
