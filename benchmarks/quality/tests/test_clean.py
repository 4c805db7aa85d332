"""Tests of the clean measure: synthetic faults must be caught, weather and stars must not."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.quality.clean import EDGE, SEAM, Bars, seams, speckle, worst_places
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
    ("garden", "day"), ("garden", "sunset"), ("city", "day"), ("space", "night"),
    ("rain", "night"), ("snow", "night"), ("farm", "day"), ("street", "day"),
])  # fmt: skip
def test_scenes_are_clean_and_their_speckle_is_found(setting: str, light: str) -> None:
    image = scene(setting, light)
    assert BARS.fault(as_bytes(image)) == ""
    assert BARS.fault(as_bytes(image + grains(0.06))) == "speckle"


@pytest.mark.parametrize("size", [1, 2])
def test_grains_are_speckle(size: int) -> None:
    assert BARS.fault(as_bytes(gradient())) == ""
    assert BARS.fault(as_bytes(gradient() + grains(0.04, size))) == "speckle"


def ripples(strength: float, period: int) -> Tensor:
    """What a decoder does around a subject: soft magenta waves, of the period of its latents."""
    line = torch.sin(2 * torch.pi * torch.arange(EDGE) / period)
    return strength * line[:, None] * line * torch.tensor([1.0, -1.0, 0.6])[:, None, None]


def in_a_patch(fault: Tensor, top: int, left: int) -> Tensor:
    """Keeps a fault in a sixteenth of the image."""
    kept = torch.zeros_like(fault)
    edge = EDGE // 4
    kept[:, top : top + edge, left : left + edge] = fault[:, top : top + edge, left : left + edge]
    return kept


FAULTS = {
    "grains of 1 px": grains(0.05),
    "grains of 2 px": grains(0.05, 2),
    "grains of 4 px": grains(0.05, 4),
    "ripples of 16 px": ripples(0.08, 16),
    "ripples of 10 px": ripples(0.08, 10),
    "ripples of 8 px": ripples(0.08, 8),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("top, left", [(0, 0), (200, 130), (384, 384)])
def test_speckle_in_a_sixteenth_of_an_image_is_found(name: str, top: int, left: int) -> None:
    assert BARS.fault(as_bytes(gradient() + in_a_patch(FAULTS[name], top, left))) == "speckle"


@pytest.mark.parametrize("setting, light", [("snow", "day"), ("sea", "sunset"), ("city", "night")])
def test_speckle_in_a_part_of_a_scene_is_found(setting: str, light: str) -> None:
    image = scene(setting, light)
    for fault in (FAULTS["grains of 2 px"], FAULTS["ripples of 16 px"]):
        assert BARS.fault(as_bytes(image + in_a_patch(fault, 40, 200))) == "speckle"


def test_a_soft_halo_and_blur_are_not_speckle() -> None:
    y, x = torch.meshgrid(torch.arange(EDGE), torch.arange(EDGE), indexing="ij")
    far = ((y - 256).square() + (x - 256).square()).float().sqrt()
    subject = gradient()
    subject[:, far < 120] = torch.tensor([0.9, 0.4, 0.1])[:, None]
    halo = 0.1 * torch.exp(-((far - 130) / 14).square())
    blurred = F.avg_pool2d(subject + halo * torch.tensor([1.0, -1.0, 1.0])[:, None, None], 9, 1)
    blurred = F.pad(blurred[None], (4, 4, 4, 4), mode="replicate")[0]
    assert BARS.fault(as_bytes(subject)) == "" and BARS.fault(as_bytes(blurred)) == ""


def test_the_worst_place_counts_and_not_the_mean() -> None:
    patch = gradient() + in_a_patch(FAULTS["ripples of 16 px"], 200, 130)
    whole = gradient() + FAULTS["ripples of 16 px"]
    in_patch, in_whole, clean = (worst_places(image)[-1] for image in (patch, whole, gradient()))
    assert in_patch > 0.9 * in_whole > 3 * clean
    assert speckle(patch)[1] < 0.5 * speckle(whole)[1]


def test_stars_rain_and_edges_are_not_speckle() -> None:
    sparse = gradient()
    points = torch.rand(EDGE, EDGE, generator=torch.manual_seed(1)) < 0.01
    sparse[:, points] = torch.tensor([1.0, 0.2, 0.9])[:, None]
    assert not BARS.is_speckled(sparse)
    rain = gradient()
    y, x = torch.meshgrid(torch.arange(EDGE), torch.arange(EDGE), indexing="ij")
    rain[2, (y + 3 * x) % 97 < 5] += 0.2
    assert not BARS.is_speckled(rain)


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
