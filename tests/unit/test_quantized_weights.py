"""Eight-bit weights: what they cost in exactness, and that adapters act on them as on others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference_server.config import EMBEDDED_MODEL, EMBEDDED_TURBO
from inference_server.engine.engine import Engine
from inference_server.engine.latent_image import LatentImage
from inference_server.loading.load import load_model
from inference_server.loading.sources import choose_weight_kind, open_source
from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter, SiteFactors
from inference_server.model.kernels.reference import quantize
from inference_server.weight_kind import WeightKind

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def engines() -> tuple[Engine, Engine]:
    """Exact and eight-bit."""

    def load(kind: WeightKind) -> Engine:
        source = open_source(EMBEDDED_MODEL, EMBEDDED_TURBO)
        return Engine(load_model(source, CPU, torch.float32, weights=kind))

    return load(WeightKind.BF16), load(WeightKind.FP8)


def draw(engine: Engine, adapters: tuple[GatedAdapter, ...] = ()) -> LatentImage:
    drawing = engine.begin(
        engine.encode("a rocket on a purple background"), 1, 4, adapters=adapters
    )
    for _ in range(4):
        engine.step([drawing])
    return drawing


def difference(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


def test_a_row_keeps_what_a_scale_of_its_own_can_keep() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 512) * torch.logspace(-3, 3, 64)[:, None]
    eight = quantize(x)
    assert eight.values.dtype == torch.float8_e4m3fn and eight.scale.shape == (64, 1)
    errors = (eight.values.float() * eight.scale - x).norm(dim=1) / x.norm(dim=1)
    # Three bits of mantissa: a rounding error of 1/16 at most, 1/50 on average.
    assert errors.max() < 0.04


def test_a_image_stays_the_image(engines: tuple[Engine, Engine]) -> None:
    exact, eight = engines
    assert eight.model.plan.demand.block < 0.3 * exact.model.plan.demand.block
    drawings = [draw(engine) for engine in engines]
    assert 0 < difference(drawings[1].latents, drawings[0].latents) < 0.1
    one, other = (engine.decode(d).float() for engine, d in zip(engines, drawings, strict=True))
    assert (one - other).square().mean() < 255**2 / 10**2.5


@pytest.mark.parametrize("site", ["block2.img_mlp_down", "block2.img_mlp_up", "block3.txt_qkv"])
def test_an_adapter_acts_on_eight_bits_as_on_more(
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
    moved = [draw(e, (adapter,)).latents - draw(e).latents for e in engines]
    assert difference(draw(engines[0], (adapter,)).latents, draw(engines[0]).latents) > 0.2
    assert difference(moved[1], moved[0]) < 0.5


def test_the_folder_decides_unless_it_leaves_it_open() -> None:
    source = open_source(EMBEDDED_MODEL, None)
    assert choose_weight_kind(source, CPU, None) is WeightKind.BF16
    assert choose_weight_kind(source, CPU, WeightKind.FP8) is WeightKind.FP8
