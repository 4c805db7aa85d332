"""Tests of the clean measure: synthetic faults must be caught, weather and stars must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks.quality.clean import EDGE, SEAM, Bars, seams, speckle
from training.data.scenes import paint

BARS = Bars.read()


def scene(setting: str, light: str) -> Tensor:
    """Renders a scene without subjects, [3, EDGE, EDGE] in 0..1."""
    pytest.importorskip("resvg_py")
    back, front = paint(setting, light, 1).pixels(EDGE)
    alpha = front[..., 3:] / 255
    mixed = back * (1 - alpha) + front[..., :3] * alpha
    return torch.from_numpy(mixed.astype(np.float32)).permute(2, 0, 1) / 255


def as_bytes(image: Tensor) -> Tensor:
    return (image.clamp(0, 1) * 255).round().to(torch.uint8)


def gradient() -> Tensor:
    line = torch.linspace(0.2, 0.8, EDGE)
    return torch.stack([line[None, :].expand(EDGE, EDGE), line[:, None].expand(EDGE, EDGE),
                        torch.full((EDGE, EDGE), 0.5)])  # fmt: skip


def grains(strength: float, size: int = 1) -> Tensor:
    """Magenta noise with grains of `size` px."""
    noise = torch.randn(1, EDGE // size, EDGE // size, generator=torch.manual_seed(0))
    grown = noise.repeat_interleave(size, 1).repeat_interleave(size, 2)
    return strength * grown * torch.tensor([1.0, -1.0, 1.0])[:, None, None]


@pytest.mark.parametrize("setting, light", [
    ("rain", "day"), ("snow", "day"), ("night sky", "night"), ("meadow", "day"),
    ("forest", "day"), ("sea", "sunset"), ("city", "night"), ("autumn", "day"),
])  # fmt: skip
def test_scenes_are_clean_and_their_speckle_is_found(setting: str, light: str) -> None:
    image = scene(setting, light)
    assert BARS.fault(as_bytes(image)) == ""
    assert BARS.fault(as_bytes(image + grains(0.06))) == "speckle"


@pytest.mark.parametrize("size", [1, 2])
def test_grains_are_speckle(size: int) -> None:
    assert BARS.fault(as_bytes(gradient())) == ""
    assert BARS.fault(as_bytes(gradient() + grains(0.04, size))) == "speckle"


def test_stars_rain_and_edges_are_not_speckle() -> None:
    sparse = gradient()
    points = torch.rand(EDGE, EDGE, generator=torch.manual_seed(1)) < 0.01
    sparse[:, points] = torch.tensor([1.0, 0.2, 0.9])[:, None]
    assert not BARS.is_speckled(speckle(sparse))
    rain = gradient()
    y, x = torch.meshgrid(torch.arange(EDGE), torch.arange(EDGE), indexing="ij")
    rain[2, (y + 3 * x) % 97 < 5] += 0.2
    assert not BARS.is_speckled(speckle(rain))


def test_a_grid_of_shifted_squares_is_broken_and_one_line_is_not() -> None:
    offsets = 0.2 * torch.rand(3, EDGE // SEAM, EDGE // SEAM, generator=torch.manual_seed(2))
    grid = offsets.repeat_interleave(SEAM, 1).repeat_interleave(SEAM, 2)
    assert BARS.fault(as_bytes(gradient() + grid)) == "seams"
    horizon = gradient()
    horizon[:, : 8 * SEAM] += 0.3
    assert seams(horizon) < BARS.seams


def test_black_and_missing_images_are_faults() -> None:
    assert BARS.fault(torch.zeros(3, EDGE, EDGE, dtype=torch.uint8)) == "black"
    assert BARS.fault(None) == "missing"
