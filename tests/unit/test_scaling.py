"""Quantised weights are widened to what comfy-kitchen, ComfyUI's own library, widens them to."""

from __future__ import annotations

import pytest
import torch
from comfy_kitchen.tensor import TensorCoreFP8Layout, TensorWiseINT8Layout

from inference_server.model.weights.scaling import Scaling, hadamard, is_group


@pytest.fixture
def weight() -> torch.Tensor:
    torch.manual_seed(0)
    return torch.randn(96, 1024) * torch.logspace(-2, 1, 96)[:, None]


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_scaled_float8_is_widened_exactly(weight: torch.Tensor, dtype: torch.dtype) -> None:
    values, params = TensorCoreFP8Layout.quantize(weight, dtype=dtype)
    expected = TensorCoreFP8Layout.dequantize(values, params)
    scaling = Scaling(params.scale.reshape(1, 1))
    assert torch.equal(scaling.widen(values), expected)
    if dtype is torch.float8_e4m3fn:
        quantized = scaling.quantized(values)
        assert torch.equal(quantized.values.float() * quantized.scale, expected)


@pytest.mark.parametrize("group", [16, 64, 256, 1024])
def test_a_rotated_weight_is_turned_back_exactly(weight: torch.Tensor, group: int) -> None:
    values, params = TensorWiseINT8Layout.quantize(
        weight, is_weight=True, per_channel=True, convrot=True, convrot_groupsize=group
    )
    expected = TensorWiseINT8Layout.dequantize(values, params)
    wide = Scaling(params.scale.reshape(-1, 1), group).widen(values)
    torch.testing.assert_close(wide, expected, rtol=1e-6, atol=1e-6)
    # Turned back, it is the weight; only rotated, it is nothing like it.
    assert (wide - weight).norm() < 0.02 * weight.norm()
    assert (Scaling(params.scale.reshape(-1, 1)).widen(values) - weight).norm() > weight.norm()


def test_plain_int8_is_widened_exactly(weight: torch.Tensor) -> None:
    values, params = TensorWiseINT8Layout.quantize(weight, is_weight=True, per_channel=True)
    wide = Scaling(params.scale.reshape(-1, 1)).widen(values)
    assert torch.equal(wide, TensorWiseINT8Layout.dequantize(values, params))


def test_rotations_are_their_own_inverse_and_groups_powers_of_four() -> None:
    for size in (4, 16, 64, 256):
        matrix = hadamard(size)
        assert torch.equal(matrix, matrix.T)
        torch.testing.assert_close(matrix @ matrix, torch.eye(size), rtol=0, atol=1e-6)
    assert [size for size in range(1, 5000) if is_group(size)] == [4, 16, 64, 256, 1024, 4096]
    assert not is_group(0) and not is_group(-4)
