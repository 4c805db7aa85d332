"""Our factors against stock diffusers and peft on the same files: the oracle, not the runtime."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import QwenImagePipeline, QwenImageTransformer2DModel
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from peft.utils import get_peft_model_state_dict

from tests.support.lora_files import make_lora, module_features, peft_metadata, truth
from wuliart_lora import LoraAdapter, parse_lora
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout

LAYOUT = SegmentLayout(LayoutParameters(2, 64, 256, 64, 64, 48, 16, 10, 32, "float32"))
MODULES = module_features(LAYOUT)
LIGHTNING = [m for m in MODULES if ".attn." in m or "_mlp." in m]
"""Modules of lightx2v's four-step LoRAs: attention and feed-forward, no modulation."""


@pytest.fixture
def transformer() -> QwenImageTransformer2DModel:
    torch.manual_seed(0)
    return QwenImageTransformer2DModel(
        num_layers=2,
        num_attention_heads=2,
        attention_head_dim=32,
        axes_dims_rope=(8, 12, 12),
        joint_attention_dim=48,
        in_channels=64,
        out_channels=16,
    )


def stock_deltas(transformer: QwenImageTransformer2DModel) -> dict[str, np.ndarray]:
    """Returns, by module, the weight delta that peft computes."""
    deltas = {}
    for path, module in transformer.named_modules():
        if isinstance(module, LoraLayer):
            (adapter,) = module.lora_A
            deltas[path] = module.get_delta_weight(adapter).detach().float().numpy()
    return deltas


def load_stock(transformer: QwenImageTransformer2DModel, file: Path) -> dict[str, np.ndarray]:
    state, metadata = QwenImagePipeline.lora_state_dict(file, return_lora_metadata=True)
    QwenImagePipeline.load_lora_into_transformer(state, transformer, metadata=metadata)
    return stock_deltas(transformer)


def assert_same(adapter: LoraAdapter, deltas: Mapping[str, np.ndarray], rtol: float = 1e-4) -> None:
    assert adapter.factors.keys() == deltas.keys()
    for module, delta in deltas.items():
        ours = adapter.factors[module].up @ adapter.factors[module].down
        np.testing.assert_allclose(ours, delta, rtol=rtol, atol=rtol * np.abs(delta).max())
        assert delta.any()


def test_layout_names_the_models_own_modules(transformer: QwenImageTransformer2DModel) -> None:
    linears = {
        path: (module.in_features, module.out_features)
        for path, module in transformer.named_modules()
        if isinstance(module, torch.nn.Linear) and not path.startswith("time_text_embed")
    }
    assert linears == MODULES


@pytest.mark.parametrize(
    "choices",
    [
        {"convention": "peft"},
        {"convention": "peft", "alpha": 6.0},
        {"convention": "peft", "rank": {module: 1 + n % 5 for n, module in enumerate(MODULES)}},
        {"convention": "diffusion_model"},
        {"convention": "diffusion_model_alpha", "alpha": 1.0},
        {"convention": "diffusion_model_down_up", "alpha": 9.0},
        {"convention": "bare_alpha", "alpha": 8.0, "rank": 64, "modules": LIGHTNING},
        {"convention": "bare_default"},
        {"convention": "kohya", "alpha": 2.0},
        {"convention": "kohya", "rank": {module: 1 + n % 5 for n, module in enumerate(MODULES)}},
        {"convention": "old_diffusers"},
        {"convention": "peft", "dtype": "BF16"},
        {"convention": "bare_alpha", "dtype": "F16"},
        {"convention": "kohya", "metadata": {"ss_network_alpha": "2"}},
    ],
    ids=lambda choices: "-".join(f"{value}"[:24] for value in choices.values()),
)
def test_adapters_stock_loads(
    transformer: QwenImageTransformer2DModel, tmp_path: Path, choices: dict[str, Any]
) -> None:
    data = make_lora(LAYOUT, **choices)
    file = tmp_path / "convention.safetensors"
    file.write_bytes(data)
    deltas = load_stock(transformer, file)
    # peft multiplies in the file's element type, we in float32.
    rtol = {"BF16": 2e-2, "F16": 2e-3}.get(choices.get("dtype", "F32"), 1e-4)
    assert_same(parse_lora(data, MODULES), deltas, rtol)
    for module, delta in truth(LAYOUT, **choices).items():
        np.testing.assert_allclose(delta, deltas[module], rtol, rtol * np.abs(delta).max())


@pytest.mark.parametrize(
    ("convention", "known"),
    [
        ("bare", "peft"),
        ("base_model", "peft"),
        ("base_model_default", "peft"),
        ("base_model_transformer", "peft"),
        ("model_diffusion_model", "peft"),
        ("diffusion_model_transformer", "peft"),
        ("peft_default", "peft"),
        ("peft_alpha", "kohya"),
        ("kohya_transformer", "kohya"),
        ("lycoris", "kohya"),
    ],
)
def test_adapters_that_stock_ignores_or_cannot_read_mean_the_same(
    transformer: QwenImageTransformer2DModel, tmp_path: Path, convention: str, known: str
) -> None:
    """As the same weights under names that stock knows; kohya's carry the same alpha."""
    file = tmp_path / "convention.safetensors"
    file.write_bytes(make_lora(LAYOUT, convention=known))
    deltas = load_stock(transformer, file)
    assert_same(parse_lora(make_lora(LAYOUT, convention=convention), MODULES), deltas)


CONFIGS = [
    {"r": 4, "lora_alpha": 8},
    {"r": 4, "lora_alpha": 4, "use_rslora": True},
    {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"attn.to_k": 3, "^transformer_blocks.1.attn.to_q": 7},
        "alpha_pattern": {"attn.to_q": 2, "img_mod.1": 5},
    },
]


def train(transformer: QwenImageTransformer2DModel, config: dict[str, Any]) -> LoraConfig:
    """Adds a peft adapter and gives it weights that are not zero, as training would."""
    targets = ["to_q", "to_k", "to_out.0", "img_mod.1", "net.2", "norm_out.linear", "proj_out"]
    lora = LoraConfig(target_modules=targets, **config)
    transformer.add_adapter(lora)
    with torch.no_grad():
        for name, parameter in transformer.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.1)
    return lora


@pytest.mark.parametrize("config", CONFIGS, ids=["alpha", "rslora", "patterns"])
def test_files_saved_by_the_pipeline(
    transformer: QwenImageTransformer2DModel, tmp_path: Path, config: dict[str, Any]
) -> None:
    lora = train(transformer, config)
    fields = {
        key: sorted(value) if isinstance(value, set) else value
        for key, value in lora.to_dict().items()
    }
    QwenImagePipeline.save_lora_weights(
        tmp_path,
        transformer_lora_layers=get_peft_model_state_dict(transformer),
        weight_name="saved.safetensors",
        transformer_lora_adapter_metadata=fields,
    )
    data = (tmp_path / "saved.safetensors").read_bytes()
    assert_same(parse_lora(data, MODULES), stock_deltas(transformer))


@pytest.mark.parametrize("config", CONFIGS, ids=["alpha", "rslora", "patterns"])
def test_files_saved_by_the_transformer(
    transformer: QwenImageTransformer2DModel, tmp_path: Path, config: dict[str, Any]
) -> None:
    train(transformer, config)
    transformer.save_lora_adapter(tmp_path, weight_name="saved.safetensors")
    data = (tmp_path / "saved.safetensors").read_bytes()
    assert_same(parse_lora(data, MODULES), stock_deltas(transformer))


def test_metadata_pattern_read_by_stock(
    transformer: QwenImageTransformer2DModel, tmp_path: Path
) -> None:
    fields = {
        "r": 4,
        "lora_alpha": 8,
        "alpha_pattern": {"to_q": 2, "transformer_blocks.0.attn.to_q": 3, "1.attn.to_k": 1},
        "target_modules": sorted(MODULES),
    }
    data = make_lora(LAYOUT, metadata={"lora_adapter_metadata": peft_metadata(**fields)})
    file = tmp_path / "pattern.safetensors"
    file.write_bytes(data)
    assert_same(parse_lora(data, MODULES), load_stock(transformer, file))
