"""Adapters folded into the products: the same sum as beside them, whatever is switched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference_server.model import fold, triton_low_rank
from inference_server.model.checkpoint import WeightFiles
from inference_server.model.fold import Arithmetic, Fold, Piece
from inference_server.model.low_rank import AdapterTensors, GatedAdapter, SiteFactors
from inference_server.model.packing import Fields
from inference_server.model.transformer import Picture, StepModulation, Transformer
from inference_server.model.transformer_loading import (
    block_fields,
    block_views,
    fill_block,
    load_transformer,
    read_edges,
)
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.weight_kind import WeightKind
from tests.tiny_model import TRANSFORMER, make_transformer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = TransformerConfig.from_json(TRANSFORMER)
GRID = (4, 4)
RANK = 32
D, M = CONFIG.width, CONFIG.mlp_width
SITES = {"qkv": (D, D, 3), "out": (D, D, 1), "mlp_up": (D, M, 1), "mlp_down": (M, D, 1)}


def adapter(rank: int, gate: float = 1.0, only: Sequence[str] = ()) -> GatedAdapter:
    """Random factors for the products named, or for all of both streams."""
    factors = {}
    for index in range(CONFIG.blocks):
        for stream in ("img", "txt"):
            for name, (inside, out, parts) in SITES.items():
                site = f"block{index}.{stream}_{name}"
                if not only or site in only:
                    down = torch.randn(parts * rank, inside, device=DEVICE) / inside**0.5
                    up = torch.randn(parts, rank, out, device=DEVICE) / rank**0.5
                    factors[site] = SiteFactors(down, up)
    return GatedAdapter(AdapterTensors(factors, {}), gate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "transformer"
    make_transformer(folder)
    return folder


def load(folder: Path, rank: int) -> Transformer:
    files = WeightFiles(folder, "diffusion_pytorch_model")
    fields: Fields = block_fields(CONFIG, torch.float32, WeightKind.BF16, rank)

    def fill(index: int, buffer: Tensor) -> None:
        fill_block(block_views(fields, buffer), index, files.read)

    edges = read_edges(lambda name: files.read(name).to(DEVICE))
    return load_transformer(CONFIG, edges, fill, GRID, DEVICE, torch.float32, rank=rank)


def picture(model: Transformer, adapters: Sequence[GatedAdapter], seed: int = 0) -> Picture:
    torch.manual_seed(seed)
    tokens = GRID[0] * GRID[1]
    latents = torch.randn(tokens, CONFIG.in_channels, device=DEVICE)
    prompt = torch.randn(5, CONFIG.text_features, device=DEVICE)
    blocks = 0.3 * torch.randn(CONFIG.blocks, 2, 6, D, device=DEVICE) + 0.5
    modulation = StepModulation(blocks, torch.randn(2, D, device=DEVICE))
    return Picture(latents, prompt, model.text_rotation(5), modulation, adapters)


def assert_same(folder: Path, *sets: Sequence[GatedAdapter]) -> list[Tensor]:
    """One pass over a picture for each set, with room for adapters and without."""
    found = []
    for rank in (RANK, 0):
        model = load(folder, rank)
        pictures = [picture(model, adapters, n) for n, adapters in enumerate(sets)]
        with torch.inference_mode():
            found.append(model.forward(pictures))
            again = model.forward(pictures)
        assert all(map(torch.equal, found[-1], again))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    return found[0]


def test_one_adapter_and_several_of_any_weight_are_the_same_sum(folder: Path) -> None:
    plain, one, two = assert_same(folder, [], [adapter(8)], [adapter(4, 0.7), adapter(16, -1.3)])
    for styled in (one, two):
        assert float((styled - plain).norm()) > 0.01 * float(plain.norm())


def test_adapters_that_act_on_few_products(folder: Path) -> None:
    sites = [f"block1.img_{name}" for name in SITES]
    for site in sites:
        assert_same(folder, [adapter(3, 1.5, [site])])
    assert_same(folder, [adapter(3, 1.5, sites[:1]), adapter(5, 0.5, sites[1:])])
    assert_same(folder, [adapter(4, 1.0, ["block0.txt_out"])])


def test_different_adapters_in_one_pass(folder: Path) -> None:
    a, b = adapter(8), adapter(16, 0.5)
    assert_same(folder, [a], [b], [], [b, a], [a])


def test_adapters_that_find_no_room_act_all_the_same(folder: Path) -> None:
    assert_same(folder, [adapter(RANK + 1)], [adapter(8)])
    assert_same(folder, [adapter(24), adapter(24)])


def test_a_set_is_written_once_and_again_when_it_changes(folder: Path) -> None:
    model, written = load(folder, RANK), []

    def count(pieces: Sequence[Piece]) -> None:
        written.append(len(pieces))
        fold.fold_(pieces)

    blocks = list(model.blocks)
    held = Fold(blocks, RANK, Arithmetic(count, fold.reduce_))
    a, b = adapter(8), adapter(8)
    heavier = GatedAdapter(a.tensors, 0.5)
    for adapters in ([a], [a], [b], [a], [heavier], [a, b], [b, a], [b, a]):
        assert held.hold(adapters)
        assert held.holds(adapters)
    sites = CONFIG.blocks * len(SITES)
    assert written == [sites, sites, sites, sites, 2 * sites, 2 * sites]
    assert not held.hold([adapter(RANK + 1)])
    assert held.holds([b, a])


@pytest.mark.parametrize("rank", [1, 8, 16])
@pytest.mark.parametrize("parts", [1, 3])
def test_the_gpu_kernels_write_and_reduce_the_same(rank: int, parts: int) -> None:
    torch.manual_seed(0)
    inside, out, most = 100, 72, 96
    down = torch.randn(parts * rank, inside, device=DEVICE)
    up = torch.randn(parts, rank, out, device=DEVICE)
    columns = -(-parts * rank // fold.COLUMNS) * fold.COLUMNS
    x = torch.randn(37, inside + most, device=DEVICE)[:, :inside]
    results = []
    for arithmetic in (fold, triton_low_rank):
        window = torch.full((most, inside), 7.0, device=DEVICE)
        tail = torch.full((parts * out, most), 7.0, device=DEVICE)
        piece = Piece(down, up, 0.5, window[16 : 16 + columns], tail[:, :columns])
        small = Piece(down, up, -2.0, window[:16], tail[:, -16:]) if parts * rank <= 16 else piece
        arithmetic.fold_([piece, small])
        wide = x.as_strided((37, inside + most), x.stride()).clone()
        arithmetic.reduce_(wide[:, :inside], piece.window)
        results.append((window, tail, wide))
    for ours, expected in zip(*results, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
