"""Float8 weights: their error, and that adapters act on them as on bf16 weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.engine.latent_image import LatentImage
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.sources import choose_weight_kind, open_source
from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter, SiteFactors
from inference_server.model.kernels.operations import KroneckerProduct
from inference_server.model.kernels.reference import quantize
from inference_server.weight_kind import WeightKind

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    """One engine with exact weights, one with float8 weights."""

    def load(kind: WeightKind) -> Engine:
        source = open_source(EMBEDDED_MODEL, EMBEDDED_TURBO)
        return Engine(load_model(source, CPU, torch.float32, weights=kind))

    return load(WeightKind.BF16), load(WeightKind.FP8)


def generate(engine: Engine, adapters: tuple[GatedAdapter, ...] = ()) -> LatentImage:
    latent_image = engine.begin(
        engine.encode("a rocket on a purple background"), 1, 4, adapters=adapters
    )
    for _ in range(4):
        engine.step([latent_image])
    return latent_image


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_rows_of_different_magnitude_are_equally_exact() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 512) * torch.logspace(-3, 3, 64)[:, None]
    quantized = quantize(x)
    assert quantized.values.dtype == torch.float8_e4m3fn and quantized.scale.shape == (64, 1)
    errors = (quantized.values.float() * quantized.scale - x).norm(dim=1) / x.norm(dim=1)
    # Three bits of mantissa: the rounding error is at most 1/16, on average 1/50.
    assert errors.max() < 0.04


def test_quantizing_changes_an_image_little(engines: tuple[Engine, Engine]) -> None:
    exact, quantized = engines
    assert quantized.model.plan.demand.block < 0.3 * exact.model.plan.demand.block
    images = [generate(engine) for engine in engines]
    assert 0 < difference(images[1].latents, images[0].latents) < 0.1
    one, other = (engine.decode(d).float() for engine, d in zip(engines, images, strict=True))
    assert (one - other).square().mean() < 255**2 / 10**2.5


@pytest.mark.parametrize("site", ["block2.img_mlp_down", "block2.img_mlp_up", "block3.txt_qkv"])
def test_an_adapter_acts_on_quantized_weights_as_on_exact_ones(
    engines: tuple[Engine, Engine], site: str
) -> None:
    torch.manual_seed(0)
    low_rank = engines[0].model.layout(4).low_rank_sites[site]
    parts = len(low_rank.modules)
    factors = SiteFactors(
        torch.randn(parts * 4, low_rank.in_features) / low_rank.in_features**0.5,
        torch.randn(parts, 4, low_rank.out_features) * 4.0,
    )
    adapter = GatedAdapter(AdapterTensors({site: factors}, {}), 1.0)
    moved = [generate(e, (adapter,)).latents - generate(e).latents for e in engines]
    assert difference(generate(engines[0], (adapter,)).latents, generate(engines[0]).latents) > 0.2
    assert difference(moved[1], moved[0]) < 0.5


@pytest.mark.parametrize("site", ["block2.img_mlp_down", "block2.img_mlp_up", "block3.txt_qkv"])
def test_a_lokr_with_biases_acts_on_quantized_weights_as_on_exact_ones(
    engines: tuple[Engine, Engine], site: str
) -> None:
    torch.manual_seed(0)
    at = engines[0].model.layout(4).low_rank_sites[site]
    products = tuple(
        KroneckerProduct(
            part,
            4 * torch.randn(8, 8) / 8**0.5,
            torch.randn(at.out_features // 8, at.in_features // 8) * (8 / at.in_features) ** 0.5,
        )
        for part in range(len(at.modules))
    )
    bias = torch.randn(len(at.modules) * at.out_features)
    tensors = AdapterTensors({}, {}, {site: products}, {f"{site}.bias": bias})
    adapter = GatedAdapter(tensors, 1.0)
    moved = [generate(e, (adapter,)).latents - generate(e).latents for e in engines]
    assert difference(generate(engines[0], (adapter,)).latents, generate(engines[0]).latents) > 0.2
    assert difference(moved[1], moved[0]) < 0.5


def test_the_option_decides_where_the_folder_does_not() -> None:
    source = open_source(EMBEDDED_MODEL, None)
    assert choose_weight_kind(source, CPU, None) is WeightKind.BF16
    assert choose_weight_kind(source, CPU, WeightKind.FP8) is WeightKind.FP8


def test_float8_files_are_widened_on_cards_that_cannot_multiply_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = open_source(EMBEDDED_MODEL, None)
    monkeypatch.setattr(source, "stored_kind", WeightKind.FP8)
    assert choose_weight_kind(source, CPU, None) is WeightKind.FP8
    card = torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 9))
    assert choose_weight_kind(source, card, None) is WeightKind.FP8
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 6))
    assert choose_weight_kind(source, card, None) is WeightKind.BF16
    with pytest.raises(ModelError, match=r"needs a card of compute capability 8\.9"):
        choose_weight_kind(source, card, WeightKind.FP8)
