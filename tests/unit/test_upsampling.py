"""Four 2x2 convolutions give what upsampling and a 3x3 convolution give."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from inference_server.model.upsampling import UpsampledConvolution


def enlarged(x: torch.Tensor, kernel: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """The same from its definition."""
    large = functional.interpolate(x, scale_factor=2.0, mode="nearest-exact")
    return functional.conv2d(large, kernel, bias, padding=1)


def relative(result: torch.Tensor, exact: torch.Tensor) -> float:
    return float((result.double() - exact).norm() / exact.norm())


def operands(height: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(height * width)
    kernel = torch.randn(8, 16, 3, 3, dtype=torch.float64) / 12
    return torch.randn(1, 16, height, width, dtype=torch.float64), kernel, torch.randn(8).double()


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 4), (2, 3), (9, 16)])
def test_four_convolutions_equal_the_convolution_of_the_enlarged_image(
    height: int, width: int
) -> None:
    x, kernel, bias = operands(height, width)
    exact = enlarged(x, kernel, bias)
    result = UpsampledConvolution(kernel.float(), bias.float())(x.float())
    assert result.shape == exact.shape == (1, 8, 2 * height, 2 * width)
    assert result.is_contiguous(memory_format=torch.channels_last)
    assert relative(result, exact) < 1e-6


def test_in_bf16_the_error_is_that_of_the_plain_form() -> None:
    """Sums are rounded once, as the plain form's weights are."""
    x, kernel, bias = operands(24, 24)
    exact = enlarged(x, kernel, bias)
    x, short = x.bfloat16(), bias.bfloat16()
    plain = relative(enlarged(x, kernel.bfloat16(), short), exact)
    assert relative(UpsampledConvolution(kernel.float(), short)(x), exact) < 1.1 * plain
