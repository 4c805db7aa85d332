"""Weights of parts that take no adapter: ignored and said so if they are zero, else refused."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tests.support.lora_files import RawTensor, encode, lora_tensors, module_features, pack
from wuliart_lora import LoraError, parse_lora
from wuliart_lora.keys import Role, role_of
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
FEATURES = module_features(LAYOUT)
Q = "transformer_blocks.0.attn.to_q"
TE = "text_encoders.qwen25_7b.transformer.layers.0.q_proj"
TIME = "transformer.time_text_embed.timestep_embedder.linear_1"
PLAIN = lora_tensors(LAYOUT, modules=[Q])


def tensor(value: float, *shape: int, dtype: str = "F32") -> RawTensor:
    return dtype, shape, encode(np.full(shape, value), dtype)


def file(extra: Mapping[str, RawTensor]) -> bytes:
    return pack(PLAIN | extra, {"title": "Ink"})


FORMS = {
    "text_encoder": ("text_encoder.layers.0.q_proj.lora_A.weight", "lora_B.weight"),
    "kohya": ("lora_te_layers_0_self_attn_q_proj.lora_down.weight", "lora_up.weight"),
    "comfy": (f"{TE}.lora_A.weight", "lora_B.weight"),
    "peft": ("base_model.model.text_model.0.q_proj.lora_A.default.weight", "lora_B.default.weight"),
    "loha": ("lora_te_layers_0_q_proj.hada_w1_a", "hada_w2_a"),
}


@pytest.mark.parametrize("dtype", ["F32", "BF16", "F16"])
@pytest.mark.parametrize("zeros", [(0.0, 0.0), (0.5, 0.0), (0.0, 0.5), (0.5, -0.0)])
@pytest.mark.parametrize("form", FORMS)
def test_a_text_encoder_that_was_not_trained_is_ignored_and_said_so(
    form: str, zeros: tuple[float, float], dtype: str
) -> None:
    first, other = FORMS[form]
    base = first.split(".lora_")[0].split(".hada_")[0]
    extra = {
        first: tensor(zeros[0], 4, 8, dtype=dtype),
        f"{base}.{other}": tensor(zeros[1], 8, 4, dtype=dtype),
        f"{base}.alpha": tensor(4),
    }
    adapter = parse_lora(file(extra), FEATURES)
    assert list(adapter.factors) == [Q]
    assert adapter.notes == ("ignored text encoder weights (3 tensors), which are zero",)


def test_a_layer_that_was_trained_makes_the_file_refused_by_its_name() -> None:
    idle = {f"{TE}.lora_A.weight": tensor(1, 4, 8), f"{TE}.lora_B.weight": tensor(0, 8, 4)}
    trained = {name.replace("q_proj", "k_proj"): tensor(0.5, 4, 4) for name in idle}
    with pytest.raises(LoraError, match=r"text encoder weights \(2, the first is .*k_proj.lora_A"):
        parse_lora(file(idle | trained), FEATURES)


def test_one_number_that_is_not_zero_is_enough() -> None:
    values = np.zeros((8, 4), np.float32)
    values[-1, -1] = 1e-30
    up = ("F32", values.shape, encode(values, "F32"))
    extra = {f"{TE}.lora_A.weight": tensor(1, 4, 8), f"{TE}.lora_B.weight": up}
    with pytest.raises(LoraError, match="text encoder weights"):
        parse_lora(file(extra), FEATURES)


@pytest.mark.parametrize("tail", ["dora_scale", "lora_B.bias", "lokr_t2", "oft_R.weight"])
def test_other_methods_are_refused_also_where_they_are_zero(tail: str) -> None:
    with pytest.raises(LoraError, match="text encoder weights"):
        parse_lora(file({f"{TE}.{tail}": tensor(0, 4, 4)}), FEATURES)


def test_two_names_for_one_tensor_are_refused() -> None:
    extra = {f"{TE}.lora_A.weight": tensor(0, 4, 8), f"{TE}.lora_down.weight": tensor(1, 4, 8)}
    with pytest.raises(LoraError, match="both give the down weights"):
        parse_lora(file(extra), FEATURES)


def test_the_timestep_embedding_with_a_zero_up_matrix_is_ignored() -> None:
    extra = {f"{TIME}.lora_A.weight": tensor(1, 4, 8), f"{TIME}.lora_B.weight": tensor(0, 8, 4)}
    adapter = parse_lora(file(extra), FEATURES)
    assert list(adapter.factors) == [Q]
    assert adapter.notes == (
        "ignored changes of the timestep embedding (2 tensors), which are zero",
    )
    extra[f"{TIME}.lora_B.weight"] = tensor(0.1, 8, 4)
    with pytest.raises(LoraError, match=r"timestep embedding \(2, .*folded.*into tables"):
        parse_lora(file(extra), FEATURES)


def test_a_file_of_zeros_for_other_parts_alone_is_refused() -> None:
    extra = {f"{TE}.lora_A.weight": tensor(0, 4, 8), f"{TE}.lora_B.weight": tensor(0, 8, 4)}
    with pytest.raises(LoraError, match="no LoRA weights of the transformer"):
        parse_lora(pack(extra), FEATURES)


def test_zeros_of_these_parts_are_no_sign_of_an_unfinished_file() -> None:
    assert role_of(f"{Q}.lora_A.weight") is Role.DOWN
    assert role_of(f"{TE}.lora_A.weight") is None
    assert role_of(f"{TIME}.lora_A.weight") is None
