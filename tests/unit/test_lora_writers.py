"""Every program that writes LoRAs for Qwen-Image: whole files as each one writes them.

A row is a writer of the field whose plain LoRAs this service reads: its keys, where it puts alpha,
its element type and its notes. The expected delta is computed from the values alone, in float64,
without the code under test. peft's own save_pretrained is in `test_lora_sidecar`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tests.support.lora_files import RawTensor, module_features, pack
from wuliart_lora import parse_lora
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
FEATURES = module_features(LAYOUT)
MODULES = ("transformer_blocks.0.attn.to_q", "transformer_blocks.1.attn.to_out.0")
RANK = 16

DTYPES: Mapping[str, torch.dtype] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
}


@dataclass(frozen=True)
class Writer:
    """One program. `{m}` is a module's path, `{f}` the same underscored."""

    down: str
    up: str
    scale: float
    """alpha / rank in its file, as its own code computes it."""
    alpha: str = ""
    """Name of its alpha tensor; empty for none."""
    alpha_dtype: str = "F32"
    dtype: str = "BF16"
    metadata: Mapping[str, str] = field(default_factory=dict)
    folded: float = 1.0
    """Both factors are already multiplied by the root of this."""


def ab(prefix: str, name: str = "") -> tuple[str, str]:
    return f"{prefix}{{m}}.lora_A{name}.weight", f"{prefix}{{m}}.lora_B{name}.weight"


def down_up(prefix: str) -> tuple[str, str]:
    return f"{prefix}.lora_down.weight", f"{prefix}.lora_up.weight"


KOHYA = down_up("lora_unet_{f}")
TRAINED = {
    "ss_network_module": "networks.lora_qwen_image",
    "ss_network_dim": str(RANK),
    "ss_network_alpha": "1",
    "ss_base_model_version": "qwen_image",
    "sshs_model_hash": "00" * 32,
    "modelspec.architecture": "Qwen-Image/lora",
}
SAVED = {f"transformer.{key}": value for key, value in {"r": RANK, "lora_alpha": 32}.items()}
PATTERNS = SAVED | {"transformer.alpha_pattern": {"attn.to_q": 64, "to_out.0": 64}}

WRITERS: Mapping[str, Writer] = {
    "lightx2v Lightning": Writer(
        *down_up("{m}"), 8 / RANK, "{m}.alpha", dtype="F32", metadata={"format": "pt"}
    ),
    "Wuli-art Turbo": Writer(*ab("diffusion_model."), 1),
    "ai-toolkit": Writer(
        *ab("diffusion_model."),
        1,
        dtype="F16",
        metadata={
            "ss_tag_frequency": '{"1_ink": {"ink": 1}}',
            "ss_output_name": "ink",
            "ss_base_model_version": "qwen_image",
            "software": '{"name": "ai-toolkit"}',
        },
    ),
    "musubi-tuner": Writer(*KOHYA, 1 / RANK, "lora_unet_{f}.alpha", dtype="F32", metadata=TRAINED),
    "musubi-tuner --no_metadata": Writer(
        *KOHYA,
        1 / RANK,
        "lora_unet_{f}.alpha",
        "BF16",
        metadata={"ss_network_module": "x", "ss_network_dim": "16", "ss_network_alpha": "1"},
    ),
    "musubi-tuner convert_lora": Writer(
        *ab("diffusion_model."), 1, dtype="F32", metadata=TRAINED, folded=1 / RANK
    ),
    "musubi-tuner convert_lora, diffusers": Writer(
        *ab("transformer.", ".default"), 1, dtype="F32", metadata=TRAINED, folded=1 / RANK
    ),
    "musubi-tuner convert_lora, no prefix": Writer(
        *ab(""), 1, dtype="F32", metadata=TRAINED, folded=1 / RANK
    ),
    "musubi-tuner convert_lora and back": Writer(
        *KOHYA, 1, "lora_unet_{f}.alpha", "I64", "F32", TRAINED, folded=1 / RANK
    ),
    "diffusion-pipe": Writer(*ab("diffusion_model."), 1),
    "DiffSynth-Studio": Writer(*ab("", ".default"), 1),
    "DiffSynth-Studio, with its pipeline": Writer(*ab("pipe.dit.", ".default"), 1),
    "flymyai": Writer(*ab("transformer."), 1),
    "diffusers": Writer(
        *ab("transformer."), 2, metadata={"lora_adapter_metadata": json.dumps(SAVED)}
    ),
    "diffusers, rslora": Writer(
        *ab("transformer."),
        32 / math.sqrt(RANK),
        dtype="F32",
        metadata={"lora_adapter_metadata": json.dumps({**SAVED, "transformer.use_rslora": True})},
    ),
    "diffusers, patterns": Writer(
        *ab("transformer."), 4, metadata={"lora_adapter_metadata": json.dumps(PATTERNS)}
    ),
    "peft state dict": Writer(*ab("base_model.model.", ".ink_v2"), 1, dtype="F32"),
    "SimpleTuner": Writer(
        *ab("transformer."),
        2,
        metadata={"lora_adapter_metadata": json.dumps(SAVED), "trained_words": "ink"},
    ),
    "SimpleTuner 2025": Writer(
        "transformer.{m}.lora.down.weight", "transformer.{m}.lora.up.weight", 1
    ),
    "SimpleTuner comfyui": Writer(
        *ab("diffusion_model."), 2, "diffusion_model.{m}.alpha", metadata={"modelspec.title": "Ink"}
    ),
    "SimpleTuner LyCORIS": Writer(
        *down_up("lycoris_{f}"),
        1 / RANK,
        "lycoris_{f}.alpha",
        "BF16",
        metadata={"lycoris_config": '{"algo": "lora", "linear_dim": 16, "linear_alpha": 1}'},
    ),
    "OneTrainer": Writer(
        *ab("transformer."),
        1,
        folded=1 / RANK,
        metadata={
            "ot_config": '{"lora_rank": 16, "lora_alpha": 1.0}',
            "ot_branch": "master",
        },
    ),
    "OneTrainer COMFY": Writer(*ab("diffusion_model."), 1 / RANK, "diffusion_model.{m}.alpha"),
    "OneTrainer ORIGINAL": Writer(*down_up("{m}"), 1 / RANK, "{m}.alpha", "BF16"),
    "OneTrainer KOHYA": Writer(*KOHYA, 1 / RANK, "lora_unet_{f}.alpha", dtype="F32"),
    "LightX2V trainer": Writer(*ab("transformer."), 1),
    "LightX2V, header alpha": Writer(*ab("transformer."), 0.5, metadata={"alpha": "8"}),
    "ComfyUI TrainLoRA": Writer(
        *down_up("diffusion_model.{m}"), 1 / RANK, "diffusion_model.{m}.alpha", dtype="F32"
    ),
    "scripts with lora_rank and lora_alpha": Writer(
        *ab("transformer."), 2, metadata={"lora_rank": "16", "lora_alpha": "32"}
    ),
    "scripts with network_dim and network_alpha": Writer(
        *ab("transformer."), 2, metadata={"network_dim": "16", "network_alpha": "32"}
    ),
    "diffusers before peft": Writer(
        "{m}.lora_linear_layer.down.weight", "{m}.lora_linear_layer.up.weight", 1, dtype="F32"
    ),
    "converted to fp8, e4m3": Writer(
        *KOHYA, 1 / RANK, "lora_unet_{f}.alpha", "F8_E4M3", "F8_E4M3", TRAINED
    ),
    "converted to fp8, e5m2": Writer(*ab("diffusion_model."), 1, dtype="F8_E5M2"),
}


def raw(values: torch.Tensor) -> bytes:
    return values.contiguous().view(torch.uint8).numpy().tobytes()


def write(writer: Writer) -> tuple[bytes, dict[str, np.ndarray]]:
    """The file, and what each module's weight should gain."""
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, RawTensor] = {}
    deltas: dict[str, np.ndarray] = {}
    for module in MODULES:
        inner, outer = FEATURES[module]
        names = {"m": module, "f": module.replace(".", "_")}
        trained = [torch.randn(s, generator=random) for s in ((RANK, inner), (outer, RANK))]
        stored = [(v * math.sqrt(writer.folded)).to(DTYPES[writer.dtype]) for v in trained]
        for name, values in zip((writer.down, writer.up), stored, strict=True):
            tensors[name.format(**names)] = (writer.dtype, values.shape, raw(values))
        if writer.alpha:
            alpha = torch.tensor([writer.scale * RANK]).to(DTYPES[writer.alpha_dtype])
            tensors[writer.alpha.format(**names)] = (writer.alpha_dtype, (), raw(alpha))
        down, up = (values.double().numpy() for values in stored)
        deltas[module] = writer.scale * up @ down
    return pack(tensors, writer.metadata), deltas


@pytest.mark.parametrize("name", WRITERS)
def test_a_writers_file_means_what_the_writer_means(name: str) -> None:
    data, deltas = write(WRITERS[name])
    adapter = parse_lora(data, FEATURES)
    assert set(adapter.factors) == set(MODULES)
    for module, delta in deltas.items():
        factors = adapter.factors[module]
        ours = factors.up.astype(np.float64) @ factors.down
        np.testing.assert_allclose(ours, delta, rtol=1e-6, atol=1e-6 * np.abs(delta).max())


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_eight_bit_pattern_is_widened_exactly(dtype: str) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    values = bits.view(DTYPES[dtype]).float().numpy()
    inner, outer = FEATURES["img_in"]
    down = np.resize(bits.numpy()[np.isfinite(values)], (4, inner))
    up = torch.ones(outer, 4).to(DTYPES[dtype])
    data = pack(
        {
            "img_in.lora_A.weight": (dtype, down.shape, down.tobytes()),
            "img_in.lora_B.weight": (dtype, up.shape, raw(up)),
        }
    )
    assert set(range(256)) - set(down.flat) == set(np.flatnonzero(~np.isfinite(values)))
    factors = parse_lora(data, FEATURES).factors["img_in"]
    assert np.array_equal(factors.down, values[down])
    assert (factors.up == 1).all()
