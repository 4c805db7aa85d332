"""The slot's layout: regions never overlap, the hash covers all of it, no module is missing."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from tests.support.tiny_model import TRANSFORMER
from wuliart_lora.slot_layout import (
    REGION_ALIGNMENT,
    SLOT_ALIGNMENT,
    KroneckerShapes,
    LayoutParameters,
    LowRankSite,
    SegmentLayout,
)

SMALL = LayoutParameters(
    blocks=2, width=8, mlp_width=16, image_features=4, output_features=4,
    text_features=12, head_features=8, modulation_rows=3, max_rank=4, dtype="float32",
)  # fmt: skip

REAL = LayoutParameters(
    blocks=60, width=3072, mlp_width=12288, image_features=64, output_features=64,
    text_features=3584, head_features=128, modulation_rows=4, max_rank=16, dtype="bfloat16",
)  # fmt: skip
"""Qwen-Image."""

SIZES = st.integers(1, 300)
PARAMETERS = st.builds(
    LayoutParameters,
    blocks=st.integers(1, 3), width=SIZES, mlp_width=SIZES, image_features=SIZES,
    output_features=SIZES, text_features=SIZES, head_features=SIZES,
    modulation_rows=st.integers(1, 20), max_rank=st.integers(1, 70),
    dtype=st.sampled_from(["float32", "bfloat16"]),
)  # fmt: skip


def regions(
    layout: SegmentLayout, rank: int, sites: Iterable[str], kronecker: KroneckerShapes
) -> Iterator[tuple[int, int]]:
    """First byte and end of every region of these sites and products, packed for `rank`."""
    packing = layout.packing(rank, sites, kronecker)
    found = []
    for name, offsets in packing.offsets.items():
        if (site := layout.low_rank_sites.get(name)) is not None:
            found.append((offsets, [layout.down_shape(site, rank), layout.up_shape(site, rank)]))
        elif (delta := layout.delta_sites.get(name)) is not None:
            found.append((offsets, [layout.delta_shape(delta)]))
        else:
            found.append((offsets, [layout.vector_shape(layout.vector_sites[name])]))
    for module, offsets in packing.kronecker.items():
        found.append((offsets, layout.kronecker_shapes(module, kronecker[module])))
    for offsets, shapes in found:
        for offset, shape in zip(offsets, shapes, strict=True):
            yield offset, offset + torch.Size(shape).numel() * layout.element_bytes


def divisors(size: int) -> st.SearchStrategy[int]:
    return st.sampled_from([n for n in range(1, size + 1) if size % n == 0])


@st.composite
def products(draw: st.DrawFn, layout: SegmentLayout) -> KroneckerShapes:
    """Kronecker products of some modules, with factors of any shape that fits."""
    modules = [m for site in layout.low_rank_sites.values() for m in site.modules]
    chosen = draw(st.lists(st.sampled_from(modules), unique=True, max_size=6))
    shapes = {}
    for module in chosen:
        site, _ = layout.modules[module]
        assert isinstance(site, LowRankSite)
        rows, columns = draw(divisors(site.out_features)), draw(divisors(site.in_features))
        shapes[module] = rows, columns
    return shapes


@settings(max_examples=60)
@given(PARAMETERS, st.data())
def test_regions_are_aligned_apart_dense_and_inside_the_slot(
    parameters: LayoutParameters, data: st.DataObject
) -> None:
    layout = SegmentLayout(parameters)
    rank = data.draw(st.integers(1, parameters.max_rank))
    sites = data.draw(st.lists(st.sampled_from(layout.sites), min_size=1))
    kronecker = data.draw(products(layout))
    packing = layout.packing(rank, sites, kronecker)
    assert packing.offsets.keys() == set(sites) and packing.kronecker.keys() == kronecker.keys()
    turned = dict(reversed(kronecker.items()))
    assert packing == layout.packing(rank, [*reversed(sites), *sites], turned), "in any order"
    end = 0
    for start, stop in sorted(regions(layout, rank, sites, kronecker)):
        assert start % REGION_ALIGNMENT == 0
        assert end <= start < stop and start - end < REGION_ALIGNMENT
        end = stop
    assert end == packing.nbytes
    assert kronecker or end <= layout.slot_bytes


@settings(max_examples=60)
@given(PARAMETERS)
def test_a_slot_holds_all_sites_and_no_more(parameters: LayoutParameters) -> None:
    layout = SegmentLayout(parameters)
    nbytes = layout.packing(parameters.max_rank, layout.sites).nbytes
    assert nbytes <= layout.slot_bytes < nbytes + SLOT_ALIGNMENT
    assert layout.slot_bytes % SLOT_ALIGNMENT == 0


@pytest.mark.parametrize(
    ("rank", "site", "complaint"),
    [(0, "img_in", "rank 0 is outside 1..4"), (5, "img_in", "rank 5"), (4, "image", "no site 'im")],
)
def test_ranks_and_sites_of_another_layout_are_errors(rank: int, site: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        SegmentLayout(SMALL).packing(rank, [site])


@pytest.mark.parametrize(
    ("module", "first", "complaint"),
    [
        ("img_in", (3, 1), r"is \[3, 1\], which does not divide \[8, 4\]"),
        ("img_in", (1, 3), "which does not divide"),
        ("img_in", (16, 1), "which does not divide"),
        ("img_in", (0, 1), "which does not divide"),
        ("img_in", (1, 0), "which does not divide"),
        ("img_in", (-8, -4), "which does not divide"),
        ("img_in", (1 << 31, 1 << 31), "which does not divide"),
        ("norm_out.linear", (1, 1), "no product 'norm_out.linear'"),
        ("txt_norm", (1, 1), "no product 'txt_norm'"),
        ("block0.img_qkv", (1, 1), "no product 'block0.img_qkv'"),
        ("", (1, 1), "no product ''"),
    ],
)
def test_products_of_another_layout_are_errors(
    module: str, first: tuple[int, int], complaint: str
) -> None:
    with pytest.raises(ValueError, match=complaint):
        SegmentLayout(SMALL).packing(1, [], {module: first})


def test_a_rank_is_needed_by_low_rank_sites_alone() -> None:
    layout = SegmentLayout(SMALL)
    assert layout.packing(0, ["norm_out", "txt_norm", "img_in.bias"], {"img_in": (2, 2)}).nbytes
    with pytest.raises(ValueError, match=r"rank 5 is outside 0\.\.4"):
        layout.packing(5, ["norm_out"])


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(LayoutParameters)])
def test_every_parameter_changes_the_hash(field: str) -> None:
    other: Any = "bfloat16" if field == "dtype" else getattr(SMALL, field) + 1
    changed = dataclasses.replace(SMALL, **{field: other})
    assert SegmentLayout(changed).hash != SegmentLayout(SMALL).hash


def test_the_hash_is_the_same_for_the_same_parameters() -> None:
    first, second = SegmentLayout(SMALL), SegmentLayout(dataclasses.replace(SMALL))
    assert first.hash == second.hash
    assert len(bytes.fromhex(first.hash)) == 32


def test_the_hash_sees_where_things_lie(monkeypatch: pytest.MonkeyPatch) -> None:
    before = SegmentLayout(SMALL).hash
    monkeypatch.setattr("wuliart_lora.slot_layout.REGION_ALIGNMENT", 512)
    assert SegmentLayout(SMALL).hash != before


@pytest.mark.parametrize("dtype", ["float16", "", "torch.float32"])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(ValueError, match="slot dtype must be one of"):
        dataclasses.replace(SMALL, dtype=dtype)


@pytest.mark.parametrize(
    "field", [f.name for f in dataclasses.fields(LayoutParameters) if f.name != "dtype"]
)
def test_a_size_below_one_is_refused(field: str) -> None:
    value: Any
    for value in (0, -1):
        with pytest.raises(ValueError, match=f"{field} must be from 1 to .*, not {value}"):
            dataclasses.replace(SMALL, **{field: value})


def parameters_of(model: Any) -> LayoutParameters:
    c = model.config
    width = c.num_attention_heads * c.attention_head_dim
    return LayoutParameters(
        blocks=c.num_layers,
        width=width,
        mlp_width=4 * width,
        image_features=c.in_channels,
        output_features=c.patch_size**2 * c.out_channels,
        text_features=c.joint_attention_dim,
        head_features=c.attention_head_dim,
        modulation_rows=4,
        max_rank=16,
        dtype="bfloat16",
    )


@pytest.mark.parametrize("configuration", [TRANSFORMER, {}], ids=["tiny", "stock"])
def test_every_linear_of_the_stock_model_has_its_place(configuration: dict[str, object]) -> None:
    with torch.device("meta"):
        model: Any = QwenImageTransformer2DModel(**configuration)
    layout = SegmentLayout(parameters_of(model))
    linears = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith("time_text_embed.")
    }
    assert linears.keys() == layout.modules.keys()
    for name, linear in linears.items():
        site, part = layout.modules[name]
        assert site.out_features == linear.out_features, name
        if isinstance(site, LowRankSite):
            assert site.modules[part] == name
            assert site.in_features == linear.in_features, name
        else:
            # What it reads is silu(temb), as wide as the model.
            assert linear.in_features == layout.parameters.width, name
    biased = {name for name, linear in linears.items() if linear.bias is not None}
    assert biased == layout.modules.keys(), "every layer has a bias to add to"
    norms = {
        name: parameter.numel()
        for name, module in model.named_modules()
        for parameter in [getattr(module, "weight", None)]
        if not isinstance(module, nn.Linear) and parameter is not None
    }
    assert norms == {module: site.features for module, site in layout.norms.items()}
    if not configuration:
        assert layout.parameters == REAL


def test_sizes_of_the_real_model() -> None:
    """The sizes in reference/qwen-image.md: bytes in bf16."""
    layout = SegmentLayout(REAL)
    blocks = [s for s in layout.low_rank_sites.values() if s.name.startswith("block")]

    def factors(sites: list[LowRankSite], rank: int) -> int:
        return sum(
            2 * torch.Size(shape).numel()
            for s in sites
            for shape in (layout.down_shape(s, rank), layout.up_shape(s, rank))
        )

    assert factors([s for s in blocks if "mlp" not in s.name], 16) == 94_371_840
    assert factors(blocks, 16) == 212_336_640
    tables = [s for s in layout.delta_sites.values() if s.name.startswith("block")]
    assert sum(2 * 4 * s.out_features for s in tables) == 17_694_720
