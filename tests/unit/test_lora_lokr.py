"""LoKr: every writer's form is the Kronecker product that its library computes, or is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.lokr.layer import factorization, make_kron

from tests.support.hostile_shapes import WIDTHS, parsed_or_refused
from tests.support.lora_files import RawTensor, encode, module_features, pack
from tests.support.other_forms import Changes, halves, lokr, relative
from wuliart_lora import Header, LoraAdapter, LoraError, parse_lora, plan_lora
from wuliart_lora.reader import Span
from wuliart_lora.slot_contents import check_capacity
from wuliart_lora.slot_image import build_image
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 8, "float32"))
FEATURES = module_features(LAYOUT)
Q, UP, MOD = (
    f"transformer_blocks.{x}" for x in ("0.attn.to_q", "1.img_mlp.net.0.proj", "1.img_mod.1")
)
MODULES = (Q, UP, "transformer_blocks.1.txt_mlp.net.2", "txt_in", MOD)
GOLDEN = Path(__file__).parents[1] / "support" / "lycoris_lokr.npz"
"""Factors, alpha and delta of LyCORIS 4.1.3's own LokrModule, 32 -> 48 features. The delta is that
of its forward pass: its `get_diff_weight` applies the scale twice."""

AI_TOOLKIT, KOHYA, LYCORIS = "diffusion_model.{m}", "lora_unet_{f}", "lycoris_{f}"
FORMS: Mapping[str, dict[str, Any]] = {
    "ai-toolkit": {"prefix": AI_TOOLKIT, "dtype": "F16", "alpha": np.inf, "alpha_dtype": "F16"},
    "ai-toolkit, bf16": {
        "prefix": AI_TOOLKIT, "dtype": "BF16", "alpha": 9_999_999_999, "alpha_dtype": "BF16",
    },
    "ai-toolkit, old": {"prefix": LYCORIS, "alpha": 9_999_999_999},
    "ai-toolkit, of rank 2": {
        "prefix": AI_TOOLKIT, "second_rank": 2, "alpha": 1, "scale": 0.5, "dtype": "F16",
    },
    "ai-toolkit, both in two": {
        "prefix": AI_TOOLKIT, "first_rank": 2, "second_rank": 2, "alpha": 4, "scale": 2,
    },
    "musubi-tuner": {"prefix": KOHYA, "second_rank": 3, "alpha": 1, "scale": 1 / 3},
    "musubi-tuner, whole": {"prefix": KOHYA, "alpha": 1},
    "diffusion-pipe": {"prefix": AI_TOOLKIT, "second_rank": 2, "dtype": "BF16"},
    "diffusion-pipe, whole": {"prefix": AI_TOOLKIT, "dtype": "BF16"},
    "SimpleTuner": {"prefix": LYCORIS, "alpha": 1, "dtype": "BF16"},
    "OneTrainer": {"prefix": "transformer.{m}", "second_rank": 2, "alpha": 1, "scale": 0.5},
    "ComfyUI TrainLoRA": {"prefix": AI_TOOLKIT, "alpha": 1},
    "first in two": {"prefix": "{m}", "first_rank": 3, "alpha": 6, "scale": 2},
    "diffusers": {"prefix": "base_model.model.{m}", "alpha": 5},
}  # fmt: skip
"""Writer -> what it writes, and the scale that it means by it."""


def meaning(adapter: LoraAdapter) -> dict[str, np.ndarray]:
    """What our reader gives, by parameter."""
    return {
        f"{module}.weight": np.kron(*stored.widened())
        for module, stored in adapter.kronecker.items()
    }


def read(changes: Changes, **arguments: Any) -> LoraAdapter:
    return parse_lora(pack(changes.tensors), FEATURES, 8, **arguments)


@pytest.mark.parametrize("writer", FORMS)
def test_a_writers_lokr_is_the_product_it_means(writer: str) -> None:
    changes = lokr(LAYOUT, MODULES, **FORMS[writer])
    adapter = read(changes)
    assert not adapter.factors and adapter.rank == 0
    assert relative(meaning(adapter), changes.added) < 1e-6


@pytest.mark.parametrize(
    "case",
    ["whole", "second_in_two", "both_in_two", "rank_stabilised", "scalar", "factor", "unbalanced"],
)
def test_the_delta_is_that_of_lycoris(case: str) -> None:
    """Rank stabilisation and the scalar are folded into alpha and w1 by LyCORIS itself."""
    with np.load(GOLDEN) as golden:
        values = {
            name.partition("/")[2]: golden[name] for name in golden.files if name.startswith(case)
        }
    delta = values.pop("delta")
    tensors = {
        f"lycoris_img_in.{name}": ("F32", v.shape, encode(v, "F32")) for name, v in values.items()
    }
    stored = parse_lora(pack(tensors), {"img_in": (32, 48)}).kronecker["img_in"]
    assert relative({"": np.kron(*stored.widened())}, {"": delta}) < 1e-6


@pytest.mark.parametrize("alpha", [16, 8, 3])
@pytest.mark.parametrize("second_rank", [0, 2])
def test_with_pefts_configuration_the_delta_is_that_of_peft(alpha: int, second_rank: int) -> None:
    """It scales whole factors too; diffusion-pipe puts its configuration beside the file."""
    changes = lokr(LAYOUT, [Q], prefix="base_model.model.{m}", second_rank=second_rank)
    rank = second_rank or 8
    config = {"peft_type": "LOKR", "r": rank, "alpha": alpha, "alpha_pattern": {}}
    (plain,) = read(changes).kronecker.values()
    first, second = map(torch.tensor, plain.widened())
    expected = {f"{Q}.weight": make_kron(first, second, alpha / rank).numpy()}
    assert relative(meaning(read(changes, config=config)), expected) < 1e-6
    if second_rank:
        with pytest.raises(LoraError, match=r"gives rank 5 .* have rank 2"):
            read(changes, config=config | {"r": 5})


def test_pefts_configuration_without_a_rank_that_can_be_is_refused() -> None:
    for rank in (0, -8, 2.5):
        with pytest.raises(LoraError, match="gives rank"):
            read(lokr(LAYOUT, [Q]), config={"peft_type": "LOKR", "r": rank, "alpha": 8})


@pytest.mark.parametrize("size", [1, 7, 48, 64, 3072, 12288, 3584, 18432])
def test_the_tests_factors_are_those_of_the_trainers(size: int) -> None:
    assert halves(size) == factorization(size)


def test_a_note_about_alpha_does_not_count_beside_whole_factors() -> None:
    changes = lokr(LAYOUT, [Q], prefix=KOHYA, alpha=7)
    data = pack(changes.tensors, {"ss_network_alpha": "9999999999", "ss_network_module": "lokr"})
    assert relative(meaning(parse_lora(data, FEATURES)), changes.added) < 1e-6


def test_two_ranks_are_refused_where_alpha_could_be_divided_by_either() -> None:
    changes = lokr(LAYOUT, [Q], first_rank=2, second_rank=3)
    assert relative(meaning(read(changes)), changes.added) < 1e-6
    with pytest.raises(LoraError, match="ranks 2 and 3, and nothing tells"):
        read(lokr(LAYOUT, [Q], first_rank=2, second_rank=3, alpha=1))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"lokr_w1": None}, "no lokr_w1 weights; the file is incomplete"),
        ({"lokr_w2": None}, "no lokr_w2 weights"),
        ({"lokr_w2": None, "lokr_w2_a": (8, 2)}, "no lokr_w2_b weights"),
        ({"lokr_w2_a": (8, 2)}, "which are one factor"),
        ({"lokr_w2": None, "lokr_w2_a": (8, 2), "lokr_w2_b": (3, 8)}, "which are no matrix"),
        ({"lokr_w2": None, "lokr_w2_a": (8, 0), "lokr_w2_b": (0, 8)}, "which are no matrix"),
        ({"lokr_w2": (8, 8, 1, 1)}, "which are no matrix"),
        ({"lokr_w2": (8, 4)}, r"whose product is \[64, 32\], and this model needs \[64, 64\]"),
        ({"lokr_t2": (2, 2)}, "factors in Tucker form"),
        ({"lora_A.weight": (4, 64)}, "both LoRA and LoKr factors"),
        ({"hada_w1_a": (64, 4)}, "both LoHa and LoKr factors"),
        ({"dora_scale": (1, 64)}, "DoRA magnitudes"),
        ({"alpha": (2,)}, "should be a single number"),
    ],
)
def test_what_is_no_lokr_is_refused(
    change: Mapping[str, tuple[int, ...] | None], reason: str
) -> None:
    shapes = {"lokr_w1": (8, 8), "lokr_w2": (8, 8)} | change
    tensors: dict[str, RawTensor] = {
        f"{Q}.{name}": ("F32", shape, bytes(4 * int(np.prod(shape))))
        for name, shape in shapes.items()
        if shape is not None
    }
    with pytest.raises(LoraError, match=reason):
        parse_lora(pack(tensors), FEATURES, 8)


@pytest.mark.parametrize("dtype", ["I32", "F64"])
def test_factors_are_floats_that_are_read(dtype: str) -> None:
    width = {"I32": 4, "F64": 8}[dtype]
    tensors: dict[str, RawTensor] = {
        f"{Q}.lokr_{half}": (dtype, (8, 8), bytes(64 * width)) for half in ("w1", "w2")
    }
    with pytest.raises(LoraError, match=f"element type {dtype}"):
        parse_lora(pack(tensors), FEATURES)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("role", ["lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b"])
def test_values_that_are_not_finite_are_refused(role: str, value: float) -> None:
    changes = lokr(LAYOUT, [Q], first_rank=2, second_rank=2)
    name = next(name for name in changes.tensors if name.endswith(role))
    _, shape, _ = changes.tensors[name]
    changes.tensors[name] = ("F32", shape, encode(np.full(shape, value), "F32"))
    with pytest.raises(LoraError, match=f"{role}.* infinite or not a number"):
        read(changes)


def test_factors_whose_product_or_scale_overflows_are_refused() -> None:
    with pytest.raises(LoraError, match="exceeds the range of float32"):
        read(lokr(LAYOUT, [Q], second_rank=2, size=1e20))
    with pytest.raises(LoraError, match="exceeds the range of float32"):
        read(lokr(LAYOUT, [Q], second_rank=1, size=1e18, alpha=1e6, first_rank=1))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("form", ["ai-toolkit", "musubi-tuner"])
def test_the_slot_holds_the_factors_and_the_tables(dtype: str, form: str) -> None:
    layout = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 8, dtype))
    changes = lokr(layout, MODULES, **FORMS[form])
    conditioning = np.random.default_rng(0).standard_normal((10, 64), np.float32)
    image = build_image(read(changes), layout, conditioning)
    assert image.sites == ("block1.img_mod",) and image.packed_rank == 0
    assert image.kronecker == {
        m: (halves(FEATURES[m][1])[0], halves(FEATURES[m][0])[0]) for m in MODULES if m != MOD
    }
    packing = layout.packing(0, image.sites, image.kronecker)
    assert image.data.nbytes == packing.nbytes

    def region(start: int, shape: Sequence[int]) -> np.ndarray:
        count = int(np.prod(shape))
        if dtype == "float32":
            return image.data[start : start + 4 * count].view("<f4").reshape(shape)
        half = image.data[start : start + 2 * count].view("<u2")
        return (half.astype(np.uint32) << 16).view(np.float32).reshape(shape)

    held = {}
    for module, offsets in packing.kronecker.items():
        shapes = layout.kronecker_shapes(module, image.kronecker[module])
        held[f"{module}.weight"] = np.kron(*map(region, offsets, shapes))
    expected = dict(changes.added)
    table = conditioning @ expected.pop(f"{MOD}.weight").T
    assert relative(held, expected) < (1e-6 if dtype == "float32" else 2**-7)
    ours = region(packing.offsets["block1.img_mod"][0], table.shape)
    assert relative({"": ours}, {"": table}) < (1e-5 if dtype == "float32" else 2**-8)


def test_a_lokr_that_does_not_fit_is_refused_with_the_rank_that_holds_it() -> None:
    """With w1 a single number, w2 is as large as the module's own matrix."""

    def check(max_rank: int) -> None:
        parameters = LayoutParameters(4, 768, 3072, 64, 64, 48, 16, 10, max_rank, "bfloat16")
        layout = SegmentLayout(parameters)
        features = module_features(layout)
        spans = {}
        for module in (m for site in layout.low_rank_sites.values() for m in site.modules):
            spans[f"{module}.lokr_w1"] = Span("BF16", (1, 1), 0, 0)
            spans[f"{module}.lokr_w2"] = Span("BF16", features[module][::-1], 0, 0)
        check_capacity(plan_lora(Header(spans, {}, 0), features, max_rank), layout)

    with pytest.raises(LoraError, match=r"a slot of this server holds .*--max-rank") as caught:
        check(16)
    needed = int(caught.value.reason.partition("--max-rank ")[2].partition(",")[0])
    check(needed)
    with pytest.raises(LoraError, match=f"--max-rank {needed}"):
        check(needed - 1)


SIZES = st.sampled_from([0, 1, 2, 3, 8, 16, 64])
PARTS = [
    "lokr_w1",
    "lokr_w1_a",
    "lokr_w1_b",
    "lokr_w2",
    "lokr_w2_a",
    "lokr_w2_b",
    "alpha",
    "diff_b",
]


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from(PARTS), st.lists(SIZES, max_size=3)),
    st.sampled_from(list(WIDTHS)),
    st.integers(0, 3),
)
def test_hostile_shapes(shapes: Mapping[str, Sequence[int]], dtype: str, fill: int) -> None:
    adapter = parsed_or_refused("img_in", shapes, dtype, fill, FEATURES, 8)
    if adapter is None:
        return
    for stored in adapter.kronecker.values():
        product = np.kron(*stored.widened())
        assert product.shape == (64, 64) and np.isfinite(product).all()
    assert adapter.kronecker or adapter.biases["img_in"].shape == (64,)
