"""Names and settings of single files: the VAE's names, fused bases, published configs."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from inference_server.errors import ModelError
from inference_server.loading.sources import open_checkpoint
from inference_server.model.fused_base import fused_in
from inference_server.model.prompt import PREFIX_TOKENS, PromptTokenizer
from inference_server.model.schedule import FAMILIES
from inference_server.model.vae import decoder_tensors
from inference_server.model.weights.published import FOLDER
from inference_server.model.weights.wan_vae_names import diffusers_name
from inference_server.model_parts import ModelParts
from tests.support.few_step_loras import PUBLISHED_SCHEDULER
from tests.support.hostile_checkpoints import header
from tests.support.published_checkpoint import TOKENIZER
from tests.support.single_files import wan_names


def sparse(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """Writes a safetensors file of bf16 zeros that occupies only its header on disk."""
    entries, offset = {}, 0
    for name, shape in shapes.items():
        end = offset + 2 * torch.Size(shape).numel()
        entries[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [offset, end]}
        offset = end
    content = header(json.dumps(entries))
    path.write_bytes(content)
    os.truncate(path, len(content) + offset)
    return path


@pytest.fixture(scope="module")
def vae_names() -> dict[str, Any]:
    with torch.device("meta"):
        model: Any = AutoencoderKLQwenImage()
    return dict(model.state_dict())


def test_wans_names_are_those_that_diffusers_converts(vae_names: dict[str, Any]) -> None:
    wan = wan_names({name: torch.tensor(n) for n, name in enumerate(vae_names)}, res_blocks=2)
    converted = convert_wan_vae_to_diffusers(dict(wan))
    ours = {diffusers_name(name, 2): tensor for name, tensor in wan.items()}
    ours.pop(None, None)
    assert set(converted) == set(vae_names)
    assert all(int(converted[name]) == int(tensor) for name, tensor in ours.items())

    class Names(dict[str, torch.Tensor]):
        def read(self, name: str) -> torch.Tensor:
            return torch.zeros(())

    read: Any = Names.fromkeys(converted)
    assert set(decoder_tensors(read)) <= set(ours)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory, vae_names: dict[str, Any]) -> ModelParts:
    """Qwen-Image's three files, in the published shapes; the transformer beside the others."""
    folder = tmp_path_factory.mktemp("full")
    published = json.loads((FOLDER / "text_encoder/config.json").read_text())
    with torch.device("meta"):
        transformer: Any = QwenImageTransformer2DModel(out_channels=16)
        text: Any = Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig.from_dict(published))
    language = {
        name.replace("model.language_model.", "model."): tuple(tensor.shape)
        for name, tensor in text.state_dict().items()
        if "visual" not in name
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in transformer.state_dict().items()}
    sparse(folder / "transformer.safetensors", shapes)
    return ModelParts(
        sparse(folder / "text.safetensors", language),
        sparse(folder / "vae.safetensors", {n: tuple(t.shape) for n, t in vae_names.items()}),
    )


def test_configs_of_full_size_files_are_the_published_ones(full_size: ModelParts) -> None:
    assert full_size.vae is not None
    model = open_checkpoint(full_size.vae.with_name("transformer.safetensors"), full_size)
    for component in ("transformer", "text_encoder", "vae"):
        published = json.loads((FOLDER / component / "config.json").read_text())
        assert model.config(component) == published
    assert model.weights("transformer").parameter_count() == 20_430_401_088
    assert model.config("scheduler") == PUBLISHED_SCHEDULER
    assert model.small_file("vae/preview.json") is None


def test_the_packages_tokenizer_is_the_published_one(full_size: ModelParts) -> None:
    assert full_size.vae is not None
    model = open_checkpoint(full_size.vae.with_name("transformer.safetensors"), full_size)
    tokenizer = PromptTokenizer(model)  # checks the template's 34 tokens
    assert tokenizer.largest_id < 152_064
    # Ids that Qwen2.5's model card and transformers' tests print.
    ids = tokenizer.tokenize("Hello, world! 你好").ids[PREFIX_TOKENS:]
    assert ids[:6] == (9707, 11, 1879, 0, 220, 108386)
    config = json.loads((FOLDER / "tokenizer/tokenizer_config.json").read_text())
    added = TOKENIZER["added_tokens_decoder"]
    assert {number: config["added_tokens_decoder"][number] for number in added} == added


FUSED = {
    "qwen_image_2512_bf16.safetensors": None,
    "qwen_image_distill_full_bf16.safetensors": None,
    "qwen-image-Q4_K_M.gguf": None,
    "qwen_image_2512_fp8_e4m3fn_scaled_comfyui_4steps_v1.0.safetensors": "lightning",
    "Qwen-Image-Lightning-8steps-V2.0-fused-bf16.safetensors": "lightning-8",
    "qwen_image_lightning_fp8.safetensors": "lightning",
    "Qwen-Image-2512-Turbo-4steps.safetensors": "turbo",
    "Qwen-Image-2512-Turbo-2steps-bf16.safetensors": "turbo-2",
    "Qwen-Image-2512-Turbo.safetensors": "",
    "my-merge-4steps.safetensors": "",
    "lightning-turbo-4steps.safetensors": "",
}
"""File name -> the family fused into it; None: none is, empty: the name does not tell which."""


@pytest.mark.parametrize("name", FUSED)
def test_a_files_name_tells_what_is_fused_in(name: str) -> None:
    fused, expected = fused_in(name), FUSED[name]
    if expected is None:
        assert fused is None
        return
    assert fused is not None
    if expected:
        chosen = fused.choose(PUBLISHED_SCHEDULER)
        assert chosen is not None and chosen.schedule == FAMILIES[expected]
    else:
        with pytest.raises(ModelError, match="--schedule: lightning"):
            fused.choose(PUBLISHED_SCHEDULER)
    with pytest.raises(ModelError, match=r"second one, mine\.safetensors, would ruin"):
        raise fused.refuse_another(Path("mine.safetensors"))
