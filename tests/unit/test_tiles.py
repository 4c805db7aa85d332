"""Four blended tiles equal the whole where the decode is local, and show no seam elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.tiles import decode_in_tiles


@pytest.mark.parametrize(("edge", "factor"), [(128, 8), (32, 32), (16, 4), (24, 2)])
def test_a_local_decode_is_exact(edge: int, factor: int) -> None:
    latents = torch.randn(1, 3, edge, edge)
    seen = []

    def decode(x: Tensor) -> Tensor:
        seen.append(x.shape[-2:])
        return F.interpolate(x, scale_factor=factor, mode="nearest")

    assert torch.allclose(decode_in_tiles(decode, latents, factor), decode(latents), atol=1e-6)
    assert len(seen) == 5 and len(set(seen[:4])) == 1


def test_tiles_that_differ_are_blended_without_a_step() -> None:
    values = iter((0.0, 1.0, 0.0, 1.0))

    def decode(x: Tensor) -> Tensor:
        return torch.full((1, 3, 8 * x.shape[-2], 8 * x.shape[-1]), next(values))

    image = decode_in_tiles(decode, torch.zeros(1, 16, 128, 128), 8)
    assert image[..., :400].max() < 1e-6 and image[..., 600:].min() > 1 - 1e-6
    assert image.diff(dim=-1).abs().max() == pytest.approx(1 / 96, rel=1e-3)
    assert image.diff(dim=-2).abs().max() < 1e-6
