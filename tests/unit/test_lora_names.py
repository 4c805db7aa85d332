"""Names that trainers and wrappers write are read where they mean one thing; else the reason says
which name was not understood, or which limit was met.
"""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Mapping

import numpy as np
import pytest

from tests.support.lora_files import (
    RawTensor,
    encode,
    lora_tensors,
    module_features,
    pack,
    pack_raw,
)
from wuliart_lora import LoraError, parse_lora
from wuliart_lora.reader import MAX_HEADER_BYTES
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
FEATURES = module_features(LAYOUT)
Q, OUT = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_out.0"


def named(names: Mapping[str, tuple[str, str]]) -> dict[str, RawTensor]:
    """A file with these names for (down, up) of each module."""
    random = np.random.default_rng(0)
    tensors: dict[str, RawTensor] = {}
    for module, pair in names.items():
        inner, outer = FEATURES[module]
        for name, shape in zip(pair, ((4, inner), (outer, 4)), strict=True):
            tensors[name] = ("F32", shape, encode(random.standard_normal(shape), "F32"))
    return tensors


@pytest.mark.parametrize(
    ("down", "up"),
    [
        ("{p}.lora_A.ink.weight", "{p}.lora_B.ink.weight"),
        ("{p}.lora_A.ink v2-final.weight", "{p}.lora_B.ink v2-final.weight"),
        ("base_model.model.{p}.lora_A.水墨.weight", "base_model.model.{p}.lora_B.水墨.weight"),
        ("{p}.lora_linear_layer.down.weight", "{p}.lora_linear_layer.up.weight"),
        ("_orig_mod.{p}.lora_A.weight", "_orig_mod.{p}.lora_B.weight"),
        ("module.{p}.lora_A.weight", "module.{p}.lora_B.weight"),
        ("module._orig_mod.{p}.lora_A.weight", "module._orig_mod.{p}.lora_B.weight"),
        ("transformer._orig_mod.{p}.lora_down.weight", "transformer._orig_mod.{p}.lora_up.weight"),
        ("{w}.lora_A.weight", "{w}.lora_B.weight"),
        ("diffusion_model.{w}.lora_A.ink.weight", "diffusion_model.{w}.lora_B.ink.weight"),
        ("{a}_lora.down.weight", "{a}_lora.up.weight"),
        ("transformer.{r}_lora.down.weight", "transformer.{r}_lora.up.weight"),
        ("lora_unet__orig_mod_{f}.lora_down.weight", "lora_unet__orig_mod_{f}.lora_up.weight"),
        ("lora_unet_module_{f}.lora_down.weight", "lora_unet_module_{f}.lora_up.weight"),
        ("lora_unet_{g}.lora_down.weight", "lora_unet_{g}.lora_up.weight"),
        ("pipe.dit.{p}.lora_A.default.weight", "pipe.dit.{p}.lora_B.default.weight"),
    ],
)
def test_names_that_mean_one_thing(down: str, up: str) -> None:
    def paths(module: str) -> dict[str, str]:
        attached = module.removesuffix(".0")
        return {
            "p": module,
            "f": module.replace(".", "_"),
            "w": module.replace(".attn.", "._orig_mod.attn._fsdp_wrapped_module."),
            "a": attached,
            "r": attached.replace(".attn.", ".attn.processor."),
            "g": module.replace("_blocks.", "_blocks_").replace(".attn.", "__orig_mod_attn_")
            .replace(".", "_"),
        }  # fmt: skip

    names = {m: (down.format(**paths(m)), up.format(**paths(m))) for m in (Q, OUT)}
    plain = named({m: (f"{m}.lora_A.weight", f"{m}.lora_B.weight") for m in (Q, OUT)})
    found, expected = (parse_lora(pack(t), FEATURES).factors for t in (named(names), plain))
    assert set(found) == {Q, OUT}
    for module in (Q, OUT):
        assert np.array_equal(found[module].down, expected[module].down)
        assert np.array_equal(found[module].up, expected[module].up)


@pytest.mark.parametrize("same", [True, False], ids=["of one module", "of two modules"])
def test_several_adapters_in_one_file_are_refused_by_their_names(same: bool) -> None:
    tensors = named({Q: (f"{Q}.lora_A.ink.weight", f"{Q}.lora_B.ink.weight")})
    other = Q if same else OUT
    tensors |= named({other: (f"{other}.lora_A.neon.weight", f"{other}.lora_B.neon.weight")})
    with pytest.raises(LoraError, match="holds 2 adapters \\('ink', 'neon'\\)"):
        parse_lora(pack(tensors), FEATURES)


def test_a_wrapped_and_a_bare_name_of_one_tensor_are_refused() -> None:
    tensors = named({Q: (f"{Q}.lora_A.weight", f"{Q}.lora_B.weight")})
    tensors |= named({Q: (f"_orig_mod.{Q}.lora_A.weight", f"_orig_mod.{Q}.lora_B.weight")})
    with pytest.raises(LoraError, match="both give the down weights"):
        parse_lora(pack(tensors), FEATURES)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("something.weight", "names are not understood (1, the first is 'something.weight')"),
        (f"{Q}.lora_C.weight", f"names are not understood (1, the first is '{Q}.lora_C.weight')"),
        (
            "double_blocks.0.img_attn.qkv.lora_A.weight",
            "modules whose names are not understood (1, the first is 'double_blocks.0.img_attn",
        ),
        (
            "lora_unet_double_blocks_0_img_attn_qkv.lora_down.weight",
            "modules whose names are not understood (1, the first is 'lora_unet_double_blocks",
        ),
        (f"{Q}.weight", f"holds the whole weight of layers (1, the first is '{Q}.weight')"),
        (f"module.{Q}.bias", f"holds the whole bias of layers (1, the first is 'module.{Q}.bias')"),
        (f"{Q}.magnitude", "DoRA magnitudes"),
        (f"{Q}.lora_B.ink.bias", "LoRA biases"),
        (f"{Q}.lora_magnitude_vector.ink.weight", "DoRA magnitudes"),
        (f"{Q}.lora_embedding_A.ink", "embedding factors"),
    ],
)
def test_the_first_name_that_is_not_understood_is_named_and_nothing_is_guessed(
    name: str, reason: str
) -> None:
    tensors = {name: ("F32", (4, 4), bytes(64))} | lora_tensors(LAYOUT, modules=[Q])
    with pytest.raises(LoraError) as caught:
        parse_lora(pack(tensors), FEATURES)
    assert reason in caught.value.reason
    assert "checkpoint" not in caught.value.reason
    assert "another model" not in caught.value.reason


GOOD = lora_tensors(LAYOUT, modules=[Q])


def with_metadata(metadata: object) -> bytes:
    plain = pack(GOOD)
    length = int.from_bytes(plain[:8], "little")
    header = json.loads(plain[8 : 8 + length])
    return pack_raw(json.dumps({"__metadata__": metadata, **header}).encode(), plain[8 + length :])


@pytest.mark.parametrize(
    "metadata", [None, {}, {"note": None, "epochs": 3, "done": True, "tags": {"a": 1}}], ids=str
)
def test_metadata_that_say_nothing_do_no_harm(metadata: object) -> None:
    assert list(parse_lora(with_metadata(metadata), FEATURES).factors) == [Q]


def test_metadata_that_are_no_table_are_called_that() -> None:
    with pytest.raises(LoraError, match="__metadata__ is not a table"):
        parse_lora(with_metadata(["a"]), FEATURES)


@pytest.mark.parametrize("mebibytes", [5, 28])
def test_a_header_of_megabytes_of_tags(mebibytes: int) -> None:
    tags = json.dumps({"1_ink": {f"tag {n}": n for n in range(mebibytes * 45_000)}})
    data = pack(GOOD, {"ss_tag_frequency": tags})
    assert 1_000_000 * mebibytes < len(data) < MAX_HEADER_BYTES
    assert list(parse_lora(data, FEATURES).factors) == [Q]


@pytest.mark.parametrize("value", ["[]", "{}", "0", '""', '{"a":0}', r'"\\"', r'"\""'])
def test_a_header_of_millions_of_values_is_refused_before_it_is_parsed(value: str) -> None:
    """Each costs many times its length once it is parsed."""
    values = f"{value}," * (((30 << 20) - 100) // (len(value) + 1))
    data = pack_raw(f'{{"__metadata__": {{"a": [{values}0]}}}}'.encode())
    tracemalloc.start()
    try:
        with pytest.raises(LoraError, match=r"header of [\d,]+ bytes .* 1,000,000 values; save it"):
            parse_lora(data, FEATURES)
        assert tracemalloc.get_traced_memory()[1] < 5 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", [",[{" * 2_000_000, r'",\[{' * 800_000, r"\\" * 4_000_000 + ",["])
def test_what_stands_in_a_text_is_no_value(text: str) -> None:
    assert list(parse_lora(pack(GOOD, {"notes": text}), FEATURES).factors) == [Q]


def test_a_header_above_the_limit_is_refused_with_the_limit() -> None:
    with pytest.raises(LoraError) as caught:
        parse_lora(pack(GOOD, pad=33 << 20), FEATURES)
    assert "has a header of 34,603,008 bytes" in caught.value.reason
    assert "limit of 33,554,432; save it with less metadata" in caught.value.reason
    assert "damaged" not in caught.value.reason
    with pytest.raises(LoraError, match=r"not a safetensors file.* format allows 100,000,000"):
        parse_lora(pack_raw(b"{}", length=100_000_001), FEATURES)
