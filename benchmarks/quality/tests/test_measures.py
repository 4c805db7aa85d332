"""Tests of the measures on synthetic images with known faults."""

from __future__ import annotations

import pytest
import torch

from benchmarks.quality import measures


def square(left: int = 96, edge: int = 256) -> torch.Tensor:
    """A dark green square on white."""
    image = torch.ones(3, edge, edge)
    image[:, 96:160, left : left + 64] = torch.tensor([0.0, 0.3, 0.1])[:, None, None]
    return image


def test_distance_is_rms_in_rgb() -> None:
    black, grey = torch.zeros(3, 128, 128), torch.full((3, 128, 128), 0.25)
    half = grey.clone()
    half[:, :, :64] = 0
    measured = measures.distances(black, torch.stack([black, grey, half]))
    assert measured.tolist() == pytest.approx([0, 0.25, 0.25 / 2**0.5])
    assert measures.distance(black, grey) == pytest.approx(0.25)


def test_the_nearest_is_the_one_shown() -> None:
    others = torch.stack([square(20), square(96), square(150)])
    noisy = others[1] + 0.1 * torch.randn(3, 256, 256, generator=torch.manual_seed(0))
    assert int(measures.distances(noisy, others).argmin()) == 1


def test_blur_lowers_sharpness_and_noise_raises_it() -> None:
    right = square()
    blurred = torch.nn.functional.interpolate(
        measures.pooled(right[None], 16), size=256, mode="bilinear"
    )[0]
    noisy = right + 0.05 * torch.randn(right.shape, generator=torch.manual_seed(0))
    assert measures.sharpness(right, right) == pytest.approx(1)
    assert measures.sharpness(blurred, right) < 0.95
    assert measures.sharpness(noisy, right) > 1.5
    assert measures.sharpness(0.5 * right, right) == pytest.approx(0.5)


def test_black_is_dark_or_without_any_difference() -> None:
    assert measures.is_black(torch.zeros(3, 256, 256))
    assert measures.is_black(torch.full((3, 256, 256), 0.5))
    assert not measures.is_black(square())


def test_psnr_of_a_known_error() -> None:
    truth = torch.full((3, 8, 8), 0.5)
    assert measures.psnr(truth + 0.1, truth) == pytest.approx(20, abs=1e-3)
