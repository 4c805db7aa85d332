"""Adapters folded into the products give the same sum as adapters added beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from inference_server.model.folded_adapters import FoldedAdapters
from inference_server.model.kernels import folding, triton_folding
from inference_server.model.kernels.folding import Folding, FoldLaunch, extended
from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter, SiteFactors
from inference_server.model.kernels.operations import KroneckerProduct
from inference_server.model.modulation import ModulationTable, StepModulation
from inference_server.model.transformer import ImageInputs, Transformer
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.weights.checkpoint import open_shards
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.transformer import (
    block_fields,
    block_views,
    fill_block,
    load_transformer,
    read_edges,
)
from inference_server.weight_kind import WeightKind
from tests.support.tiny_model import TRANSFORMER, make_transformer

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIG = TransformerConfig.from_json(TRANSFORMER)
GRID = (4, 4)
RANK = 32
D, M = CONFIG.width, CONFIG.mlp_width
STREAMS = ("img", "txt")
SITES = {"qkv": (D, D, 3), "out": (D, D, 1), "mlp_up": (D, M, 1), "mlp_down": (M, D, 1)}


def adapter(rank: int, gate: float = 1.0, only: Sequence[str] = ()) -> GatedAdapter:
    """Random factors for the named products, or for all products of both streams."""
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


def kronecker(gate: float = 1.0, *, low_rank: int = 0) -> GatedAdapter:
    """Random Kronecker products, and differences of biases and norms, for all of both streams.

    With `low_rank`, the products of the second block are of that rank instead.
    """
    products, vectors = {}, {}
    for index in range(CONFIG.blocks):
        for stream in ("img", "txt"):
            for name, (inside, out, parts) in SITES.items():
                site = f"block{index}.{stream}_{name}"
                vectors[f"{site}.bias"] = 0.3 * torch.randn(parts * out, device=DEVICE)
                if low_rank and index:
                    continue
                first = torch.randn(parts, 4, 8, device=DEVICE) / 8**0.5
                second = torch.randn(parts, out // 4, inside // 8, device=DEVICE)
                products[site] = tuple(
                    KroneckerProduct(part, first[part], second[part] / (inside / 8) ** 0.5)
                    for part in range(parts)
                    if part != 1  # the middle one of q, k, v stays as it is
                )
            for norm in ("q_norm", "k_norm"):
                vectors[f"block{index}.{stream}_{norm}"] = torch.randn(
                    CONFIG.head_dim, device=DEVICE
                )
    sites = [f"block{n}.{s}_{p}" for n in range(1, CONFIG.blocks) for s in STREAMS for p in SITES]
    factors = adapter(low_rank, only=sites).tensors.factors if low_rank else {}
    return GatedAdapter(AdapterTensors(factors, {}, products, vectors), gate)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "transformer"
    make_transformer(folder)
    return folder


def load(folder: Path, rank: int) -> Transformer:
    files = open_shards(folder, "diffusion_pytorch_model")
    fields: Fields = block_fields(CONFIG, torch.float32, WeightKind.BF16, rank)

    def fill(index: int, buffer: Tensor) -> None:
        fill_block(block_views(fields, buffer), index, files.read)

    edges = read_edges(lambda name: files.read(name).to(DEVICE))
    return load_transformer(
        CONFIG, edges, fill, grid=GRID, device=DEVICE, dtype=torch.float32, rank=rank
    )


def image(model: Transformer, adapters: Sequence[GatedAdapter], seed: int = 0) -> ImageInputs:
    torch.manual_seed(seed)
    tokens = GRID[0] * GRID[1]
    latents = torch.randn(tokens, CONFIG.in_channels, device=DEVICE)
    prompt = torch.randn(5, CONFIG.text_features, device=DEVICE)
    blocks = 0.3 * torch.randn(CONFIG.blocks, 2, 6, D, device=DEVICE) + 0.5
    modulation = StepModulation(blocks, torch.randn(2, D, device=DEVICE))
    return ImageInputs(latents, prompt, model.text_rotation(5), modulation, adapters)


def assert_same(folder: Path, *sets: Sequence[GatedAdapter]) -> list[Tensor]:
    """Compares a pass over one image per set, with spare columns and without."""
    found = []
    for rank in (RANK, 0):
        model = load(folder, rank)
        images = [image(model, adapters, n) for n, adapters in enumerate(sets)]
        with torch.inference_mode():
            found.append(model.forward(images))
            again = model.forward(images)
        assert all(map(torch.equal, found[-1], again))
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)
    return found[0]


def test_one_adapter_and_several_with_weights(folder: Path) -> None:
    plain, one, two = assert_same(folder, [], [adapter(8)], [adapter(4, 0.7), adapter(16, -4.0)])
    for adapted in (one, two):
        assert float((adapted - plain).norm()) > 0.01 * float(plain.norm())


def test_adapters_of_few_products(folder: Path) -> None:
    sites = [f"block1.img_{name}" for name in SITES]
    for site in sites:
        assert_same(folder, [adapter(3, 1.5, [site])])
    assert_same(folder, [adapter(3, 1.5, sites[:1]), adapter(5, 0.5, sites[1:])])
    assert_same(folder, [adapter(4, 1.0, ["block0.txt_out"])])


def test_different_adapters_in_one_pass(folder: Path) -> None:
    a, b = adapter(8), adapter(16, 0.5)
    assert_same(folder, [a], [b], [], [b, a], [a])


def test_adapters_that_do_not_fit_are_added_beside(folder: Path) -> None:
    assert_same(folder, [adapter(RANK + 1)], [adapter(8)])
    assert_same(folder, [adapter(24), adapter(24)])


def test_kronecker_products_and_vectors_beside_folded_factors(folder: Path) -> None:
    both, products = kronecker(low_rank=8), kronecker(0.5)
    plain, one, two, _, three = assert_same(
        folder, [], [products], [both], [adapter(4)], [products, adapter(8, -1.0), both]
    )
    for adapted in (one, two, three):
        assert float((adapted - plain).norm()) > 0.01 * float(plain.norm())


def test_products_are_those_of_matrices_with_the_changes_added(folder: Path) -> None:
    """A LoKr against the LoRA of full rank that its matrix is, with the same vectors."""
    gated = kronecker(0.7)
    factors = {}
    for site, products in gated.tensors.kronecker.items():
        inside, out, parts = SITES[site.partition("_")[2]]
        up = torch.zeros(parts, inside, out, device=DEVICE)
        for part, first, second in products:
            up[part] = torch.kron(first, second).T
        down = torch.eye(inside, device=DEVICE).repeat(parts, 1)
        factors[site] = SiteFactors(down, up)
    dense = GatedAdapter(AdapterTensors(factors, {}, {}, gated.tensors.vectors), 0.7)
    for rank in (RANK, 0):
        model = load(folder, rank)
        with torch.inference_mode():
            ours, expected = model.forward([image(model, [gated]), image(model, [dense])])
        torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_set_is_written_only_when_it_changes(folder: Path) -> None:
    model, written = load(folder, RANK), []

    def count(job: FoldLaunch) -> None:
        written.append(len(job.adapters))
        folding.fold_(job)

    blocks = list(model.blocks)
    held = FoldedAdapters(blocks, RANK, Folding(count, folding.reduce_, False))
    a, b = adapter(8), adapter(8)
    heavier = GatedAdapter(a.tensors, 0.5)
    for adapters in ([a], [a], [b], [a], [heavier], [a, b], [b, a], [b, a]):
        assert held.fold(adapters)
        assert held.holds(adapters)
    assert written == [1, 1, 1, 1, 2, 2]
    assert not held.fold([adapter(RANK + 1)])
    assert held.holds([b, a])


@pytest.mark.parametrize("splits", [False, True], ids=["whole", "split"])
def test_the_gpu_kernels_write_and_reduce_the_same(folder: Path, splits: bool) -> None:
    sets = (
        [adapter(8)],
        [adapter(1, 0.5), adapter(16, -2.0, [f"block0.img_{name}" for name in SITES])],
    )
    for adapters in sets:
        found = []
        for module in (folding, triton_folding):
            blocks = list(load(folder, 64).blocks)
            held = FoldedAdapters(blocks, 64, Folding(module.fold_, module.reduce_, splits))
            assert held.fold(adapters)
            for name, (inside, *_) in SITES.items():
                site = f"block0.img_{name}"
                torch.manual_seed(0)
                x = torch.randn(37, inside + 3 * 64, device=DEVICE)[:, :inside]
                matrix = getattr(blocks[0].img, name).weight
                # The split of t differs between implementations, so compare the product.
                found.append(held.reduce(x, site) @ extended(matrix, held.columns(site)).T)
        for ours, expected in zip(found[:4], found[4:], strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_partial_sums_add_up(folder: Path) -> None:
    """Uses split-K partial sums on the CPU, as the kernels do on a GPU."""
    a = adapter(8)
    model, expected = load(folder, 64), load(folder, 0)
    blocks = list(model.blocks)
    model.folded = FoldedAdapters(blocks, 64, Folding(folding.fold_, folding.reduce_, True))
    with torch.inference_mode():
        (ours,) = model.forward([image(model, [a])])
        (beside,) = expected.forward([image(expected, [a])])
    assert model.folded.columns("block0.img_out") == 64
    torch.testing.assert_close(ours, beside, rtol=1e-4, atol=1e-4)


def test_equally_spaced_deltas_are_added_as_separate_ones() -> None:
    rows, blocks, features = 3, 5, 12
    memory = torch.randn(2 * blocks * rows * features + 7)

    def delta(n: int) -> Tensor:
        return memory[n * rows * features :][: rows * features].view(rows, features)

    names = [f"block{b}.{stream}" for b in range(blocks) for stream in ("img_mod", "txt_mod")]
    everything = {name: delta(n) for n, name in enumerate(names)}
    base = ModulationTable(torch.randn(rows, blocks, 2, 6, 2), torch.randn(rows, 2, 2))
    for left_out in ((), ("block2.img_mod",), ("block0.img_mod", "block4.txt_mod"), names[:-1]):
        in_slot = {n: d for n, d in everything.items() if n not in left_out}
        alone = {n: d.clone() for n, d in in_slot.items()}
        got, expected = (
            base.select([2, 0], [GatedAdapter(AdapterTensors({}, d), 0.5)], torch.float32)
            for d in (in_slot, alone)
        )
        for ours, theirs in zip(got, expected, strict=True):
            assert torch.equal(ours.blocks, theirs.blocks)
        first = got[0].blocks[3, 1].flatten() - base.blocks[2, 3, 1].flatten()
        delta_added = in_slot.get("block3.txt_mod")
        expected = torch.zeros(12) if delta_added is None else 0.5 * delta_added[2]
        torch.testing.assert_close(first, expected, rtol=1e-5, atol=1e-5)
