"""Every tensor of a file counts, or the file is refused by the tensor's name.

Whole files as their trainers write them; `test_lora_parity` says what the accepted ones mean, and
tests/support/bad_lora_files.py has files that are good but for one thing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tests.support.lora_files import (
    CONVENTIONS,
    RawTensor,
    decode,
    encode,
    lora_tensors,
    module_features,
    pack,
)
from wuliart_lora import LoraError, parse_lora
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
FEATURES = module_features(LAYOUT)
MODULES = ["img_in", "transformer_blocks.0.attn.to_q", "transformer_blocks.1.img_mod.1"]


def deltas(tensors: Mapping[str, RawTensor]) -> dict[str, np.ndarray]:
    adapter = parse_lora(pack(tensors), FEATURES)
    return {module: factors.up @ factors.down for module, factors in adapter.factors.items()}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_tensor_of_an_accepted_file_counts(convention: str) -> None:
    good = lora_tensors(LAYOUT, modules=MODULES, convention=convention)
    before = deltas(good)
    for name, (dtype, shape, data) in good.items():
        halved = encode(decode(data, dtype, shape) * np.float32(0.5), dtype)
        after = deltas(good | {name: (dtype, shape, halved)})
        changed = [m for m in MODULES if not np.array_equal(before[m], after[m])]
        assert len(changed) == 1, name
        np.testing.assert_allclose(after[changed[0]], before[changed[0]] / 2, rtol=1e-6)


def tensor(*shape: int) -> RawTensor:
    return "F32", shape, encode(np.full(shape, 0.1), "F32")


ALPHA = tensor()


def path(convention: str, module: str) -> str:
    """The module as the convention writes it, with its prefix."""
    written = CONVENTIONS[convention].down.format(m=module, f=module.replace(".", "_"))
    return re.sub(r"\.lora[_.](?:A|down)(?:\.default)?\.weight$", "", written)


def whole_file(convention: str, parts: Sequence[str]) -> dict[str, RawTensor]:
    """A file without plain factors; of `parts`, `{o}` and `{i}` are a module's features."""
    found: dict[str, RawTensor] = {}
    for module in MODULES:
        inner, outer = FEATURES[module]
        sizes = {"i": inner, "o": outer, "r": 4, "k": 8}
        for part in parts:
            name, _, shape = part.partition(" ")
            written = tensor(*(sizes.get(s) or int(s) for s in shape.split("x") if s))
            found[f"{path(convention, module)}.{name}"] = written
    return found


LOHA_TUCKER = ("hada_t1 rxr", "hada_w1_a rxo", "hada_w1_b rxi", "hada_t2 rxr", "hada_w2_a rxo")
LOKR_TUCKER = ("lokr_t2 rxr", "lokr_w1 kxk", "lokr_w2_a rxk", "lokr_w2_b rxk", "alpha")


@pytest.mark.parametrize("convention", ["lycoris", "kohya", "diffusion_model", "peft", "bare"])
@pytest.mark.parametrize(
    ("parts", "cause"),
    [
        (LOHA_TUCKER, "factors in Tucker form"),
        (LOKR_TUCKER, "factors in Tucker form"),
        (("oft_blocks kxrxr", "alpha"), "OFT rotations"),
        (("oft_R.weight kxr",), "OFT rotations"),
        (("boft_R.default kxkxr",), "BOFT rotations"),
        (("a1.weight rxi", "a2.weight ixr", "b1.weight rxi", "b2.weight oxr"), "GLoRA factors"),
        (("diff oxi", "diff_b o"), "full weight differences"),
        (("weight oxi", "bias o"), "the whole weight|names are not understood"),
    ],
    ids=[
        "loha tucker",
        "lokr tucker",
        "oft",
        "oft of OneTrainer",
        "boft",
        "glora",
        "diff",
        "checkpoint",
    ],
)
def test_a_file_of_another_method_is_refused_by_its_name(
    convention: str, parts: Sequence[str], cause: str
) -> None:
    file = whole_file(convention, parts)
    with pytest.raises(LoraError, match=cause) as caught:
        parse_lora(pack(file), FEATURES)
    assert next(iter(file)) in caught.value.reason, "an example from the file"


@pytest.mark.parametrize("convention", ["peft", "base_model_default", "bare", "kohya", "lycoris"])
@pytest.mark.parametrize(
    ("part", "cause"),
    [
        ("dora_scale 1xi", "DoRA magnitudes"),
        ("magnitude o", "DoRA magnitudes"),
        ("lora_magnitude_vector o", "DoRA magnitudes"),
        ("lora_magnitude_vector.weight o", "DoRA magnitudes"),
        ("lora_magnitude_vector.default.weight o", "DoRA magnitudes"),
        ("lora_B.bias o", "LoRA biases"),
        ("lora_B.default.bias o", "LoRA biases"),
        ("lora_up.bias o", "LoRA biases"),
        ("lora.up.bias o", "LoRA biases"),
        ("lora_A.bias r", "LoRA biases"),
        ("diff oxi", "full weight differences"),
        ("lokr_w1 kxk", "both LoRA and LoKr factors"),
        ("lora_mid.weight rxrx1x1", "convolution factors"),
        ("lora_new.weight rxr", "names are not understood"),
    ],
)
def test_plain_factors_with_more_beside_them_are_refused(
    convention: str, part: str, cause: str
) -> None:
    """A and B alone would generate an image that the LoRA was not trained for."""
    file = lora_tensors(LAYOUT, modules=MODULES, convention=convention) | whole_file(
        convention, [part]
    )
    with pytest.raises(LoraError, match=cause):
        parse_lora(pack(file), FEATURES)


@pytest.mark.parametrize(
    "name",
    [
        "text_encoder.layers.0.self_attn.q_proj.lora_A.weight",
        "text_encoder_2.layers.0.self_attn.q_proj.lora_A.weight",
        "text_encoders.qwen25_7b.transformer.layers.0.q_proj.lora_A.weight",
        "base_model.model.text_model.layers.0.q_proj.lora_A.weight",
        "transformer.text_encoder.layers.0.q_proj.lora_A.weight",
        "lora_te_layers_0_self_attn_q_proj.lora_down.weight",
        "lora_te_layers_0_self_attn_q_proj.alpha",
        "lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight",
        "lora_te2_text_model_encoder_layers_0_mlp_fc1.dora_scale",
    ],
)
@pytest.mark.parametrize("convention", ["peft", "kohya", "bare_alpha"])
def test_text_encoder_weights_beside_good_ones_are_refused(convention: str, name: str) -> None:
    file = lora_tensors(LAYOUT, modules=MODULES, convention=convention) | {name: tensor(4, 4)}
    with pytest.raises(LoraError, match="text encoder weights") as caught:
        parse_lora(pack(file), FEATURES)
    assert name in caught.value.reason


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_block_too_many_is_refused_in_every_convention(convention: str) -> None:
    """A LoRA of a longer model must not be applied to the blocks that exist here."""
    longer = SegmentLayout(LayoutParameters(3, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
    modules = [*MODULES, "transformer_blocks.2.attn.to_q"]
    file = lora_tensors(longer, modules=modules, convention=convention)
    with pytest.raises(LoraError, match=r"transformer_blocks\.2 .*this model has 2 blocks"):
        parse_lora(pack(file), FEATURES)
