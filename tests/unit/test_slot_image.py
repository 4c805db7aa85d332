"""The bytes of a slot mean what the layout says they mean: read back, they give the adapter."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xxhash

from tests.support.lora_files import encode, make_lora, pack, truth
from wuliart_lora import LoraAdapter, LoraError, parse_lora
from wuliart_lora.slot_image import SlotImage, build_image, module_shapes
from wuliart_lora.slot_layout import REGION_ALIGNMENT, LayoutParameters, LowRankSite, SegmentLayout

ROWS = 10


def layout_of(dtype: str) -> SegmentLayout:
    return SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, ROWS, 32, dtype))


FLOAT32, BFLOAT16 = layout_of("float32"), layout_of("bfloat16")
CONDITIONING = np.random.default_rng(5).standard_normal((ROWS, 64), np.float32)
Q, V = "transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_v"
MOD = "transformer_blocks.1.txt_mod.1"


def build(layout: SegmentLayout, data: bytes) -> SlotImage:
    return build_image(parse_lora(data, module_shapes(layout), 32), layout, CONDITIONING)


def read(
    image: SlotImage, layout: SegmentLayout, offset: int, shape: tuple[int, ...]
) -> np.ndarray:
    """One region as the server reads it: torch's view of the bytes, as float32."""
    kind = {"float32": torch.float32, "bfloat16": torch.bfloat16}[layout.parameters.dtype]
    end = offset + int(np.prod(shape)) * layout.element_bytes
    assert end <= len(image.data)
    return torch.from_numpy(image.data[offset:end]).view(kind).reshape(shape).float().numpy()


def read_module(image: SlotImage, layout: SegmentLayout, module: str) -> np.ndarray:
    """The module's weight delta [out, in], or its table [rows, out] if it reads the timestep."""
    site, part = layout.modules[module]
    rank = image.packed_rank
    offsets = layout.packing(rank, image.sites).offsets[site.name]
    if not isinstance(site, LowRankSite):
        return read(image, layout, offsets[0], layout.delta_shape(site))
    down = read(image, layout, offsets[0], layout.down_shape(site, rank))
    up = read(image, layout, offsets[1], layout.up_shape(site, rank))
    return (down[part * rank : (part + 1) * rank].T @ up[part]).T


@pytest.mark.parametrize(("layout", "tolerance"), [(FLOAT32, 1e-5), (BFLOAT16, 2e-2)])
@pytest.mark.parametrize("convention", ["peft", "kohya"])
def test_every_module_reads_back(layout: SegmentLayout, tolerance: float, convention: str) -> None:
    image = build(layout, make_lora(layout, convention=convention, rank=5))
    assert image.packed_rank == 5
    assert image.sites == (*layout.low_rank_sites, *layout.delta_sites)
    for module, delta in truth(layout, convention=convention, rank=5).items():
        site, _ = layout.modules[module]
        expected = delta if isinstance(site, LowRankSite) else CONDITIONING @ delta.T
        np.testing.assert_allclose(
            read_module(image, layout, module), expected, atol=tolerance * np.abs(expected).max()
        )


def test_mixed_ranks_are_padded_with_zeros() -> None:
    ranks = {Q: 2, V: 7, MOD: 3}
    image = build(FLOAT32, make_lora(FLOAT32, rank=ranks, modules=list(ranks)))
    assert image.packed_rank == 7
    deltas = truth(FLOAT32, rank=ranks, modules=list(ranks))
    for module in (Q, V):
        np.testing.assert_allclose(read_module(image, FLOAT32, module), deltas[module], atol=1e-6)
    site, _ = FLOAT32.modules[Q]
    assert isinstance(site, LowRankSite)
    assert image.sites[0] == site.name
    down = read(image, FLOAT32, 0, FLOAT32.down_shape(site, 7))
    assert not down[2:7].any()


def test_a_part_without_factors_is_zero() -> None:
    image = build(FLOAT32, make_lora(FLOAT32, modules=[Q, V]))
    assert image.sites == ("block0.img_qkv",)
    assert not read_module(image, FLOAT32, "transformer_blocks.0.attn.to_k").any()
    assert read_module(image, FLOAT32, V).any()


@pytest.mark.parametrize("module", ["img_in", Q, "proj_out", MOD, "norm_out.linear"])
def test_only_the_touched_site_is_listed_and_the_image_is_no_larger(module: str) -> None:
    image = build(FLOAT32, make_lora(FLOAT32, modules=[module], rank=3))
    site, _ = FLOAT32.modules[module]
    assert image.sites == (site.name,)
    if isinstance(site, LowRankSite):
        down = 4 * len(site.modules) * 3 * site.in_features
        end = -(-down // REGION_ALIGNMENT) * REGION_ALIGNMENT
        end += 4 * len(site.modules) * 3 * site.out_features
    else:
        end = 4 * ROWS * site.out_features
    assert image.data.shape == (end,)


def test_a_full_slot_fits() -> None:
    image = build(FLOAT32, make_lora(FLOAT32, rank=32))
    assert len(image.data) <= FLOAT32.slot_bytes


def test_checksum_is_over_the_written_bytes() -> None:
    image = build(FLOAT32, make_lora(FLOAT32, modules=[Q]))
    assert image.data.dtype == np.uint8
    value = xxhash.xxh3_128_intdigest(image.data.tobytes())
    assert image.checksum == value.to_bytes(16, "big")
    again = build(FLOAT32, make_lora(FLOAT32, modules=[Q]))
    assert again.checksum == image.checksum
    assert build(FLOAT32, make_lora(FLOAT32, modules=[Q], seed=1)).checksum != image.checksum


def one_module(
    down: np.ndarray, up: np.ndarray, module: str = Q, dtype: str = "F32"
) -> LoraAdapter:
    halves = {"A": down, "B": up}
    tensors = {
        f"{module}.lora_{half}.weight": (dtype, values.shape, encode(values, dtype))
        for half, values in halves.items()
    }
    return parse_lora(pack(tensors), module_shapes(BFLOAT16), 32)


def test_bfloat16_factors_are_the_same_copied_or_rounded() -> None:
    down, up = (torch.randn(*shape).bfloat16().float().numpy() for shape in ((3, 64), (64, 3)))
    widened = build_image(one_module(down, up), BFLOAT16, CONDITIONING)
    copied = build_image(one_module(down, up, dtype="BF16"), BFLOAT16, CONDITIONING)
    assert copied.data.tobytes() == widened.data.tobytes()
    assert copied.checksum == widened.checksum


def test_bfloat16_rounds_to_nearest_even() -> None:
    # Around 1 neighbours differ by 2**-7: ties go to the even one, everything else to the nearest.
    values = np.array(
        [1, 1 + 2**-8, 1 + 3 * 2**-8, 1 + 2**-8 + 2**-20, 1 + 2**-8 - 2**-20, -1 - 2**-8, 1e-40],
        np.float32,
    )
    values = np.concatenate([values, np.random.default_rng(0).standard_normal(57, np.float32)])
    down = values.reshape(1, 64)
    image = build_image(one_module(down, np.ones((64, 1), np.float32)), BFLOAT16, CONDITIONING)
    site, _ = BFLOAT16.modules[Q]
    assert isinstance(site, LowRankSite)
    written = image.data[:128].tobytes()
    assert written == torch.from_numpy(down).bfloat16().view(torch.uint8).numpy().tobytes()
    assert written == encode(down, "BF16")


def test_a_value_beyond_bfloat16_is_refused() -> None:
    largest = np.full((1, 64), np.finfo(np.float32).max)
    up = np.ones((64, 1), np.float32)
    build_image(one_module(largest, up), FLOAT32, CONDITIONING)
    with pytest.raises(LoraError, match=rf"{Q} exceed the range of bfloat16"):
        build_image(one_module(largest, up), BFLOAT16, CONDITIONING)


def test_a_table_beyond_float32_is_refused() -> None:
    down = np.full((1, 64), np.float32(1e30))
    up = np.full((384, 1), np.float32(1e30))
    with pytest.raises(LoraError, match=MOD):
        build_image(one_module(down, up, MOD), FLOAT32, CONDITIONING)


def test_arguments_that_do_not_belong_together() -> None:
    adapter = parse_lora(make_lora(FLOAT32, rank=40), module_shapes(FLOAT32))
    with pytest.raises(ValueError, match="another layout"):
        build_image(adapter, FLOAT32, CONDITIONING)
    adapter = parse_lora(make_lora(FLOAT32), module_shapes(FLOAT32))
    with pytest.raises(ValueError, match="conditioning"):
        build_image(adapter, FLOAT32, CONDITIONING[:3])
