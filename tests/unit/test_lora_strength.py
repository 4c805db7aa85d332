"""The strength of a LoRA is read wherever it is written, and never guessed where two places differ.

`test_lora_writers` has whole files as each trainer writes them; here one statement at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from tests.support.lora_files import (
    RawTensor,
    encode,
    lora_tensors,
    make_lora,
    module_features,
    pack,
)
from wuliart_lora import LoraError, parse_lora
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
FEATURES = module_features(LAYOUT)
Q, K = "transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_k"


def scale_of(data: bytes, config: Mapping[str, Any] | None = None, module: str = Q) -> float:
    """How many times up @ down the module's product is, in float64, by the file's own factors."""
    factors = parse_lora(data, FEATURES, config=config).factors[module]
    plain = parse_lora(_without_statements(data), FEATURES).factors[module]
    product = plain.up.astype(float) @ plain.down
    ours = factors.up.astype(float) @ factors.down
    scale = float((ours * product).sum() / (product * product).sum())
    np.testing.assert_allclose(ours, scale * product, rtol=1e-5, atol=1e-9)
    return scale


def _without_statements(data: bytes) -> bytes:
    """The same file without metadata and `.alpha` tensors."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    header.pop("__metadata__", None)
    tensors: dict[str, RawTensor] = {}
    for name, entry in header.items():
        if not name.endswith(".alpha"):
            begin, end = (8 + length + at for at in entry["data_offsets"])
            tensors[name] = entry["dtype"], entry["shape"], data[begin:end]
    return pack(tensors)


def lora(metadata: Mapping[str, Any] | None = None, **choices: Any) -> bytes:
    return make_lora(LAYOUT, modules=[Q, K], metadata=metadata, **choices)


@pytest.mark.parametrize(
    "metadata",
    [
        {"alpha": "16", "rank": "4"},
        {"lora_alpha": "16", "rank": "4"},
        {"network_alpha": "16", "rank": "4"},
        {"network_alpha": "16.0", "network_dim": "4"},
        {"lora_alpha": "1.6e1", "lora_rank": "4.0"},
        {"lora_alpha": ' "16" ', "lora_r": "None"},
        {"transformer.lora_alpha": "16", "transformer.r": "4"},
        {"transformer.lora_alpha": "16"},
        {"transformer.network_alpha": "16"},
        {"diffusion_model.lora_alpha": "16"},
        {"base_model.model.transformer.lora_alpha": "16", "diffusion-model.r": "4"},
        {"transformer.ss_network_alpha": "16"},
        {"lora_alpha": "16", "transformer.lora_alpha": "16.0", "diffusion_model.lora_alpha": ""},
        {"alpha": "16", "r": "4", "transformer.r": "4.0"},
        {"alpha": "16", "init_lora_weights": "None", "peft_type": "LORA", "bias": "none"},
        {"Alpha": "16"},
        {"LORA_ALPHA": "16"},
        {"lora-alpha": "16"},
        {"alpha": 16, "rank": 4},
        {"alpha": 16.0},
        {"alpha": "16", "lora_alpha": "16", "network_alpha": "16"},
        {"alpha": "None", "lora_alpha": "16", "network_alpha": ""},
        {"ss_network_alpha": "16"},
        {"ss_network_alpha": "16.0", "rank": "4"},
        {"lora_alpha": "8", "use_rslora": "True"},
        {"lora_alpha": "1", "alpha_pattern": '{"attn.to_q": 16}'},
        {"lora_adapter_metadata": '{"transformer.r": 4, "transformer.lora_alpha": 16}'},
        {"lora_adapter_metadata": '{"transformer.r": "4", "transformer.lora_alpha": "16.0"}'},
        {"lora_adapter_metadata": '{"r": 4, "lora_alpha": 16}'},
        {"lora_adapter_metadata": {"r": 4, "lora_alpha": 16}},
        {"lora_adapter_metadata": json.dumps('{"r": 4, "lora_alpha": 16}')},
        {"lora_adapter_metadata": '{"r": 4, "transformer.r": "4.0", "lora_alpha": 16}'},
        {"lora_adapter_metadata": '{"transformer.r": 4, "lora_alpha": 16}'},
        {"lora_config": '{"lora_alpha": 16}'},
        {"adapter_config": '{"peft_type": "LORA", "r": 4, "lora_alpha": 16}'},
        {"peft_config": '{"r": 4, "lora_alpha": 8, "use_rslora": true}'},
    ],
    ids=str,
)
def test_alpha_in_the_header_is_a_scale_of_four(metadata: dict[str, Any]) -> None:
    assert scale_of(lora(metadata)) == pytest.approx(4)


@pytest.mark.parametrize(
    "metadata",
    [
        {},
        {"rank": "16"},
        {"alpha": "None", "rank": "4"},
        {"ot_config": '{"lora_alpha": 1.0, "lora_rank": 16}'},
        {"text_encoder.lora_alpha": "16", "text_encoder.r": "4"},
        {"ss_network_alpha": "4", "ss_network_dim": "4"},
        {"ss_network_alpha": "Dynamic", "ss_network_dim": "Dynamic"},
        {"ss_network_alpha": "None"},
        {"modelspec.title": "Ink", "format": "pt"},
        {"use_dora": "false", "rank_pattern": "{}", "init_lora_weights": "True", "bias": "none"},
        {"peft_type": "PeftType.LORA", "init_lora_weights": '"gaussian"'},
        {"text_encoder.ss_network_alpha": "16", "lora_te1.lora_alpha": "8"},
        {"unet.lora_alpha": "None"},
        {"use_ema": "true", "dim": "3072"},
    ],
    ids=str,
)
def test_metadata_without_an_alpha_gives_a_scale_of_one(metadata: dict[str, Any]) -> None:
    assert scale_of(lora(metadata)) == pytest.approx(1)


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({"alpha": "16", "lora_alpha": "8"}, r"'lora_alpha' means a scale of 2 .*'alpha' one of 4"),
        ({"alpha": "16", "rank": "8"}, "'alpha' gives rank 8 .* have rank 4"),
        ({"alpha": "16", "rank": "4", "lora_rank": "8"}, "two ranks, rank 4 and lora_rank 8"),
        ({"alpha": "sixteen"}, "the header's 'alpha' is 'sixteen' and should be a number"),
        ({"alpha": "16,0"}, "should be a number"),
        ({"alpha": "[16]"}, "should be a number"),
        ({"alpha": True}, "should be a number"),
        ({"alpha": "nan"}, "should be a number"),
        ({"alpha": "1e999"}, "out of range"),
        ({"alpha": "9" * 5000}, "should be a number"),
        ({"alpha": "0"}, "alpha is 0 "),
        ({"alpha": "-16"}, "alpha is -16 "),
        ({"use_rslora": "true"}, "no alpha beside it"),
        ({"lora_alpha": "16", "use_rslora": "maybe"}, "should be true or false"),
        ({"lora_alpha": "16", "use_dora": "true"}, "sets use_dora"),
        ({"lora_alpha": "16", "init_lora_weights": "pissa"}, "started with 'pissa'"),
        ({"lora_config": "16"}, "'lora_config' is unreadable: it is not a JSON object"),
        ({"lora_adapter_metadata": '{"r": 4, "lora_alpha": 16}', "alpha": "8"}, "means a scale"),
        ({"ss_network_alpha": "16", "lora_alpha": "8"}, "of 2 .*'ss_network_alpha' one of 4"),
        (
            {"lora_alpha": "4", "transformer.lora_alpha": "16"},
            "'lora_alpha' means a scale of 1 .*'transformer.lora_alpha' one of 4",
        ),
        (
            {"transformer.lora_alpha": "16", "lora_alpha": "4"},
            "'transformer.lora_alpha' means a scale of 4 .*'lora_alpha' one of 1",
        ),
        ({"alpha": "16", "Alpha": "4"}, "'alpha' means a scale of 4 .*'Alpha' one of 1"),
        (
            {"alpha": "16", "r": "4", "transformer.r": "8"},
            "'r' is '4' and the header's 'transformer.r' is '8'; remove the one that is wrong",
        ),
        ({"r": "4", "transformer.r": "8"}, "'r' is '4' and the header's 'transformer.r' is '8'"),
        (
            {"ss_network_alpha": "16", "transformer.ss_network_alpha": "4"},
            "'ss_network_alpha' is '16' and the header's 'transformer.ss_network_alpha' is '4'",
        ),
        (
            {"lora_alpha": "16", "use_rslora": "true", "transformer.use_rslora": "false"},
            "'use_rslora' is 'true' and the header's 'transformer.use_rslora' is 'false'",
        ),
        (
            {"lora_adapter_metadata": '{"transformer.r": 4, "lora_alpha": 4, "r": 8}'},
            "gives 'transformer.r' and 'r' with different values",
        ),
        (
            {
                "lora_config": '{"r": 4, "lora_alpha": 16}',
                "transformer.lora_config": '{"r": 4, "lora_alpha": 8}',
            },
            "'lora_config' means a scale of 4 .*'transformer.lora_config' one of 2",
        ),
        (
            {"lora_config": '{"r": 4, "lora_alpha": 4, "lora_alpha": 16}'},
            "'lora_config' is unreadable: it gives 'lora_alpha' twice",
        ),
        ({"use_dora": "true"}, "the header sets use_dora"),
        ({"diffusion_model.use_dora": "1"}, "the header sets use_dora"),
        ({"init_lora_weights": "pissa"}, "started with 'pissa'"),
        ({"init_lora_weights": '"pissa_niter_4"'}, "started with 'pissa_niter_4'"),
        ({"peft_type": "LOHA"}, "this is 'LOHA'"),
        ({"peft_type": "LOHA", "lora_alpha": "4"}, "this is 'LOHA'"),
        ({"bias": "lora_only"}, "sets bias to 'lora_only'"),
        ({"modules_to_save": '["img_in"]'}, "sets modules_to_save"),
        ({"rank_pattern": '{"to_q": 4}'}, "gives rank_pattern and no alpha beside it"),
        ({"rank_pattern": "{"}, "'rank_pattern' is unreadable"),
        ({"alpha_pattern": '{"to_q": 4}'}, "gives alpha_pattern and no alpha beside it"),
        ({"diffusion_model.lora_alpha": "0"}, "alpha is 0 "),
        (
            {"unet.lora_alpha": "16"},
            "'unet.lora_alpha' gives an alpha for 'unet', which is not understood",
        ),
        ({f"transformer.{Q}.lora_alpha": "16"}, "gives an alpha for 'transformer_blocks.0.attn"),
    ],
    ids=str,
)
def test_metadata_that_disagrees_or_is_not_understood_is_refused_by_name(
    metadata: dict[str, Any], reason: str
) -> None:
    with pytest.raises(LoraError, match=reason):
        parse_lora(lora(metadata), FEATURES)


def test_tensors_and_header_must_agree() -> None:
    assert scale_of(lora({"alpha": "16"}, convention="bare_alpha", alpha=16.0)) == pytest.approx(4)
    with pytest.raises(LoraError, match=r"\.alpha' means a scale of 2 .*'alpha' one of 4"):
        parse_lora(lora({"alpha": "16"}, convention="bare_alpha", alpha=8.0), FEATURES)


TRAINED = {"ss_network_module": "networks.lora_qwen_image", "ss_network_dim": "4"}
RS_LORA = {"ss_network_args": '{"algo": "lora", "rs_lora": "True"}'}


@pytest.mark.parametrize(
    ("convention", "alpha", "metadata", "expected"),
    [
        # Rule 1: tensors count.
        ("kohya", 2.0, {**TRAINED, "ss_network_alpha": "2"}, 0.5),
        ("kohya", 2.0, {**TRAINED, "ss_network_alpha": "Dynamic"}, 0.5),
        ("kohya", 4.0, {**TRAINED, "ss_network_alpha": "1"}, 1),
        ("kohya", 2.0, {**TRAINED, "ss_network_alpha": "1"}, "says alpha 1 .* hold 2"),
        ("kohya", 2.0, {**TRAINED, **RS_LORA, "ss_network_alpha": "1"}, 0.5),  # 1 * sqrt(4)
        ("kohya", 4.0, {**TRAINED, **RS_LORA, "ss_network_alpha": "4"}, 1),
        ("kohya", 3.0, {**TRAINED, **RS_LORA, "ss_network_alpha": "1"}, "says alpha 1 .* hold 3"),
        ("kohya", 2.0, {**TRAINED, "ss_network_alpha": "16"}, "says alpha 16 .* hold 2"),
        ("bare_alpha", 2.0, {"ss_network_alpha": "16"}, "says alpha 16 .* hold 2"),
        # Rule 2: kohya's own keys.
        ("kohya", None, {**TRAINED, "ss_network_alpha": "1"}, 0.25),
        ("kohya", None, {"ss_network_alpha": "16"}, 4),
        # Rule 3: converted.
        ("diffusion_model", None, {**TRAINED, "ss_network_alpha": "1"}, 1),
        ("peft", None, {**TRAINED, "ss_network_alpha": "1"}, 1),
        ("bare_default", None, {**TRAINED, "ss_network_alpha": "1"}, 1),
        ("peft", None, {**TRAINED, "ss_network_alpha": "1", "lora_alpha": "4"}, 1),
        # Rule 4: another program's alpha, or not to be known.
        ("peft", None, {"ss_network_alpha": "16"}, 4),
        ("peft", None, {"ss_network_alpha": "16", "ss_network_dim": "4"}, "nothing tells"),
        ("diffusion_model", None, {"ss_network_alpha": "1"}, "nothing tells"),
        ("diffusion_model", None, {"ss_network_alpha": "4", "ss_network_dim": "4"}, 1),
        ("peft", None, {"ss_network_alpha": "16", "ss_tag": "", "lora_alpha": "16"}, 4),
        ("peft", None, {"ss_network_alpha": "1", "lora_alpha": "16"}, "means a scale of 4"),
    ],
)
def test_kohyas_alpha_note(
    convention: str, alpha: float | None, metadata: dict[str, str], expected: float | str
) -> None:
    data = pack(
        {
            name: tensor
            for name, tensor in lora_tensors(
                LAYOUT, modules=[Q, K], convention=convention, alpha=alpha
            ).items()
            if alpha is not None or not name.endswith(".alpha")
        },
        metadata,
    )
    if isinstance(expected, str):
        with pytest.raises(LoraError, match=expected):
            parse_lora(data, FEATURES)
    else:
        assert scale_of(data) == pytest.approx(expected)


def test_alphas_by_block_are_legitimate_beside_the_note() -> None:
    tensors = lora_tensors(LAYOUT, modules=[Q, K], convention="kohya", alpha=2.0)
    name = f"lora_unet_{K.replace('.', '_')}.alpha"
    tensors[name] = ("F32", (), encode(np.array(8.0), "F32"))
    data = pack(tensors, {**TRAINED, "ss_network_alpha": "2"})
    assert scale_of(data) == pytest.approx(0.5)
    assert scale_of(data, module=K) == pytest.approx(2)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"lora_alpha": 16}, 4),
        ({"r": 4, "lora_alpha": 16, "peft_type": "LORA", "bias": "none"}, 4),
        ({"r": 4, "lora_alpha": 16, "peft_type": "PeftType.LORA"}, 4),
        ({"r": "4", "lora_alpha": "16.0", "rank_pattern": None}, 4),
        ({"r": 4, "lora_alpha": 8, "use_rslora": True}, 8 / math.sqrt(4)),
        ({"r": 8, "lora_alpha": 16, "rank_pattern": {"to_q": 4, f"^{K}": 4}}, 4),
        ({"r": 4, "lora_alpha": 1, "alpha_pattern": {f"base_model.model.{Q}": 16}}, 4),
        ({"r": 4, "lora_alpha": 1, "alpha_pattern": {f"^transformer.{Q}$": 16}}, 4),
        ({"r": 4, "peft_type": "LORA"}, 2),
        ({"r": 4, "lora_alpha": 16, "modules_to_save": [], "target_parameters": None}, 4),
    ],
    ids=str,
)
def test_the_scale_in_a_sidecar(config: dict[str, Any], expected: float) -> None:
    assert scale_of(lora(convention="base_model"), config) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({}, "gives none of peft_type, r and lora_alpha"),
        ({"model": "x"}, "gives none of"),
        ({"r": 8, "lora_alpha": 16}, "adapter_config.json gives rank 8 .* have rank 4"),
        ({"r": 4, "lora_alpha": 0}, "alpha is 0 in adapter_config.json"),
        ({"r": 4, "lora_alpha": "much"}, "lora_alpha of adapter_config.json is 'much'"),
        ({"r": 4, "peft_type": "LOHA"}, "this is a LoHa and the file holds LoRA factors at"),
        ({"r": 4, "peft_type": "LOHA", "use_rslora": True}, "sets use_rslora"),
        ({"r": 4, "use_effective_conv2d": True}, "sets use_effective_conv2d"),
        ({"peft_type": "LOKR", "r": 4, "alpha": 8}, "this is a LoKr and the file holds LoRA"),
        ({"peft_type": "BOFT", "r": 4}, "this is 'BOFT', and only LoRA or LoHa or LoKr can stand"),
        ({"r": 4, "lora_alpha": 4, "use_dora": True}, "sets use_dora"),
        ({"r": 4, "lora_alpha": 4, "use_tomorrow": True}, "sets use_tomorrow"),
        ({"r": 4, "lora_alpha": 4, "bias": "lora_only"}, "sets bias to 'lora_only'"),
        ({"r": 4, "lora_alpha": 4, "lora_bias": True}, "sets lora_bias"),
        ({"r": 4, "lora_alpha": 4, "fan_in_fan_out": True}, "sets fan_in_fan_out"),
        ({"r": 4, "lora_alpha": 4, "modules_to_save": ["img_in"]}, "sets modules_to_save"),
        ({"r": 4, "lora_alpha": 4, "target_parameters": ["w"]}, "sets target_parameters"),
        ({"r": 4, "lora_alpha": 4, "init_lora_weights": "pissa"}, "started with 'pissa'"),
        ({"r": 4, "lora_alpha": 4, "init_lora_weights": "olora"}, "started with 'olora'"),
        ({"r": 4, "lora_alpha": 4, "init_lora_weights": "loftq"}, "started with 'loftq'"),
        ({"r": 4, "lora_alpha": 4, "init_lora_weights": ["x"]}, "started with"),
        ({"r": 4, "lora_alpha": 4, "alpha_pattern": {".*q": 1}}, "holds the expression"),
        ({"r": 4, "lora_alpha": 4, "alpha_pattern": {"to_q": [1]}}, "for to_q is"),
    ],
    ids=str,
)
def test_a_sidecar_that_is_not_understood(config: dict[str, Any], reason: str) -> None:
    with pytest.raises(LoraError, match=reason):
        parse_lora(lora(convention="base_model"), FEATURES, config=config)


def test_header_and_sidecar_must_agree() -> None:
    data = lora({"alpha": "16"}, convention="base_model")
    assert scale_of(data, {"lora_alpha": 16}) == pytest.approx(4)
    with pytest.raises(LoraError, match=r"'alpha' means .* 4 .* adapter_config.json one of 2"):
        parse_lora(data, FEATURES, config={"lora_alpha": 8})
