"""LoHa: every writer's form is the LoRA of rank r * r that its library computes, or is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft.tuners.loha.layer import make_weight

from tests.support.hostile_shapes import WIDTHS, parsed_or_refused
from tests.support.lora_files import RawTensor, encode, module_features, pack
from wuliart_lora import LoraAdapter, LoraError, parse_lora
from wuliart_lora.slot_image import build_image
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

PARAMETERS = LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "bfloat16")
LAYOUT = SegmentLayout(PARAMETERS)
FEATURES = module_features(LAYOUT)
Q, MOD = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mod.1"
MODULES = (Q, "transformer_blocks.1.attn.to_out.0", "img_in", MOD)
PARTS = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DTYPES |= {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
GOLDEN = Path(__file__).parents[1] / "support" / "lycoris_loha.npz"
"""Factors, alpha and delta of LyCORIS 4.1.3's own LohaModule, 16 -> 24 features."""

PREFIXES = {
    "musubi-tuner and OneTrainer KOHYA": "lora_unet_{f}",
    "SimpleTuner LyCORIS": "lycoris_{f}",
    "ComfyUI": "diffusion_model.{m}",
    "diffusers": "transformer.{m}",
    "peft": "base_model.model.{m}",
    "bare": "{m}",
}


def raw(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def write(
    prefix: str = "lora_unet_{f}",
    *,
    rank: int = 4,
    alpha: float | None = 1.0,
    dtype: str = "F32",
    metadata: Mapping[str, str] | None = None,
    skip: str = "",
) -> tuple[bytes, dict[str, np.ndarray]]:
    """A file, and by module the delta that peft computes from its values."""
    random = torch.Generator().manual_seed(rank)
    tensors: dict[str, RawTensor] = {}
    deltas = {}
    for module in MODULES:
        inner, outer = FEATURES[module]
        path = prefix.format(m=module, f=module.replace(".", "_"))
        shapes = ((outer, rank), (rank, inner)) * 2
        stored = [(torch.randn(s, generator=random) * 0.5).to(DTYPES[dtype]) for s in shapes]
        for part, values in zip(PARTS, stored, strict=True):
            if part != skip:
                tensors[f"{path}.{part}"] = (dtype, values.shape, raw(values))
        if alpha is not None:
            tensors[f"{path}.alpha"] = ("F32", (), encode(np.array(alpha), "F32"))
        scale = torch.tensor(1.0 if alpha is None else alpha / rank, dtype=torch.float64)
        deltas[module] = make_weight(*(v.double() for v in stored), scale).numpy()
    return pack(tensors, metadata), deltas


def distance(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.linalg.norm(ours - theirs) / np.linalg.norm(theirs))


def assert_means(adapter: LoraAdapter, deltas: Mapping[str, np.ndarray]) -> None:
    assert set(adapter.factors) == set(deltas)
    for module, delta in deltas.items():
        factors = adapter.factors[module]
        assert distance(factors.up @ factors.down, delta) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("writer", PREFIXES)
def test_a_writers_loha_is_the_delta_of_its_library(writer: str, dtype: str) -> None:
    data, deltas = write(PREFIXES[writer], dtype=dtype)
    adapter = parse_lora(data, FEATURES, 16)
    assert adapter.rank == 16
    assert_means(adapter, deltas)


@pytest.mark.parametrize("case", ["plain", "rank_stabilised", "scalar", "no_alpha"])
def test_the_delta_is_that_of_lycoris(case: str) -> None:
    """Rank stabilisation and the scalar are folded into alpha and w1_a by LyCORIS itself."""
    with np.load(GOLDEN) as golden:
        values = {name: golden[f"{case}/{name}"] for name in (*PARTS, "alpha", "delta")}
    delta = values.pop("delta")
    tensors = {
        f"lycoris_img_in.{name}": ("F32", v.shape, encode(v, "F32")) for name, v in values.items()
    }
    factors = parse_lora(pack(tensors), {"img_in": (16, 24)}).factors["img_in"]
    assert distance(factors.up @ factors.down, delta) < 1e-6


@pytest.mark.parametrize("dtype", ["F32", "BF16"])
def test_the_slot_holds_the_delta_within_the_rounding_of_bfloat16(dtype: str) -> None:
    data, deltas = write(dtype=dtype)
    conditioning = np.random.default_rng(0).standard_normal((10, 64), np.float32)
    image = build_image(parse_lora(data, FEATURES, 32), LAYOUT, conditioning)
    packing = LAYOUT.packing(image.packed_rank, image.sites)

    def region(site: str, tensor: int, shape: tuple[int, ...]) -> np.ndarray:
        start = packing.offsets[site][tensor]
        half = image.data[start : start + 2 * int(np.prod(shape))].view("<u2")
        return (half.astype(np.uint32) << 16).view(np.float32).reshape(shape)

    down, up = region("img_in", 0, (16, 64)), region("img_in", 1, (1, 16, 64))[0]
    assert distance(up.T @ down, deltas["img_in"]) < 2**-7
    table = region("block1.img_mod", 0, (10, 384))
    assert distance(table, conditioning @ deltas[MOD].T) < 2**-8


def test_a_file_without_alpha_has_scale_1() -> None:
    data, deltas = write(alpha=None)
    assert_means(parse_lora(data, FEATURES), deltas)


def test_a_configuration_of_a_lora_beside_a_loha_is_refused() -> None:
    data, deltas = write("base_model.model.{m}", alpha=None)
    assert_means(
        parse_lora(data, FEATURES, config={"peft_type": "LOHA", "r": 4, "alpha": 4}), deltas
    )
    with pytest.raises(LoraError, match="this is a LoRA and the file holds LoHa factors"):
        parse_lora(data, FEATURES, config={"peft_type": "LORA", "r": 4, "lora_alpha": 4})


def test_kohyas_note_is_compared_by_the_files_own_rank() -> None:
    note = {"ss_network_module": "networks.loha", "ss_network_alpha": "1", "ss_network_dim": "4"}
    data, deltas = write(alpha=1.0, metadata=note)
    assert_means(parse_lora(data, FEATURES), deltas)
    with pytest.raises(LoraError, match=r"says alpha 1 and the \.alpha tensors hold 2"):
        parse_lora(write(alpha=2.0, metadata=note)[0], FEATURES)


def test_a_rank_that_does_not_fit_is_refused_with_the_rank_it_needs() -> None:
    data, _ = write(rank=6)
    with pytest.raises(LoraError, match=r"LoHa that needs rank 36 .*holds up to 32.*max-rank 36"):
        parse_lora(data, FEATURES, 32)
    assert parse_lora(data, FEATURES, 36).rank == 36


def test_without_a_limit_the_products_are_still_bounded() -> None:
    assert parse_lora(write(rank=32)[0], FEATURES).rank == 1024
    with pytest.raises(LoraError, match="needs rank 1089 as a LoRA, and at most 1,024"):
        parse_lora(write(rank=33)[0], FEATURES)


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_part_is_named(part: str) -> None:
    with pytest.raises(LoraError, match=f"no {part} weights"):
        parse_lora(write(skip=part)[0], FEATURES)


def one(values: Mapping[str, np.ndarray]) -> bytes:
    return pack({f"img_in.{p}": ("F32", v.shape, encode(v, "F32")) for p, v in values.items()})


def whole(**changed: float) -> bytes:
    shapes = {
        "hada_w1_a": (64, 2),
        "hada_w1_b": (2, 64),
        "hada_w2_a": (64, 2),
        "hada_w2_b": (2, 64),
    }
    return one({part: np.full(s, changed.get(part, 1.0)) for part, s in shapes.items()})


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_values_that_are_not_finite_are_refused(part: str, value: float) -> None:
    with pytest.raises(LoraError, match=f"img_in.{part}.* infinite or not a number"):
        parse_lora(whole(**{part: value}), FEATURES)


@pytest.mark.parametrize("half", "ab")
def test_products_beyond_float32_are_refused(half: str) -> None:
    with pytest.raises(LoraError, match="exceed the range of float32"):
        parse_lora(whole(**{f"hada_w1_{half}": 1e30, f"hada_w2_{half}": 1e30}), FEATURES)


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_nan_patterns_of_eight_bits_are_refused(dtype: str) -> None:
    bits = np.zeros((64, 2), np.uint8)
    for pattern in (0x7F, 0xFF):
        bits[-1, -1] = pattern
        tensors = {"img_in.lora_B.weight": (dtype, bits.shape, bits.tobytes())}
        tensors["img_in.lora_A.weight"] = (dtype, (2, 64), bytes(128))
        with pytest.raises(LoraError, match="not a number"):
            parse_lora(pack(tensors), FEATURES)


SIZES = st.sampled_from([0, 1, 2, 3, 5, 8, 48, 64])
SHAPES = st.lists(SIZES, min_size=2, max_size=2) | st.lists(SIZES, max_size=3)


@settings(max_examples=200)
@given(
    st.dictionaries(st.sampled_from([*PARTS, "alpha", "lora_A.weight", "hada_t1"]), SHAPES),
    st.sampled_from(list(WIDTHS)),
    st.integers(0, 3),
)
def test_hostile_shapes(shapes: Mapping[str, Sequence[int]], dtype: str, fill: int) -> None:
    adapter = parsed_or_refused("img_in", shapes, dtype, fill, FEATURES, 16)
    if adapter is None:
        return
    factors = adapter.factors["img_in"]
    assert factors.up.shape == (64, factors.rank) and factors.down.shape == (factors.rank, 64)
    assert factors.rank <= 16
    assert np.isfinite(factors.up).all() and np.isfinite(factors.down).all()


@settings(max_examples=100)
@given(st.integers(0, 6), st.integers(0, 6), st.integers(0, 6), st.integers(0, 6))
def test_ranks_that_disagree_are_refused(a: int, b: int, c: int, d: int) -> None:
    shapes = ((64, a), (b, 64), (64, c), (d, 64))
    data = one({part: np.ones(shape) for part, shape in zip(PARTS, shapes, strict=True)})
    if a == b > 0 and c == d > 0 and a * c <= 16:
        assert parse_lora(data, FEATURES, 16).rank == a * c
    else:
        with pytest.raises(LoraError, match=r"disagree on the rank|have rank 0|needs rank"):
            parse_lora(data, FEATURES, 16)
