"""The embedded model as stock diffusers sees it: it loads, generates, and answers to what it is
asked.

What its images are worth is measured by `make bench-quality`.
"""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors import safe_open
from transformers import AutoTokenizer

from training import trained, vae
from training.assemble import assemble
from training.autoencoder import Autoencoder
from training.styles import STYLES, Style

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "inference_server" / "embedded" / "checkpoint"
PROMPT = "a rocket on a purple background"
TEMPLATE_PREFIX = (
    "<|im_start|>system\nDescribe the image by detailing the color, shape, size, texture, "
    "quantity, text, spatial relationships of the objects and background:<|im_end|>\n"
    "<|im_start|>user\n"
)


@pytest.fixture(scope="module")
def pipeline() -> Any:
    pipe = QwenImagePipeline.from_pretrained(CHECKPOINT, dtype=torch.float32, local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def generate(pipeline: Any, prompt: str = PROMPT, seed: int = 1, steps: int = 4) -> torch.Tensor:
    """Packed latents [1, 256, 128]."""
    return pipeline(
        prompt,
        height=1024,
        width=1024,
        num_inference_steps=steps,
        true_cfg_scale=1.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images


@pytest.fixture(scope="module")
def reference(pipeline: Any) -> torch.Tensor:
    return generate(pipeline)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """RMS of a - b relative to b; about 1.4 for unrelated images."""
    return float((a - b).norm() / b.norm())


def test_the_schedule_is_lightnings(pipeline: Any) -> None:
    assert pipeline.vae_scale_factor == 32
    generate(pipeline)
    assert pipeline.scheduler.sigmas.tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])


def test_the_template_takes_34_tokens_and_words_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT / "tokenizer", local_files_only=True)
    assert type(tokenizer).__name__ == "Qwen2Tokenizer"
    assert len(tokenizer(TEMPLATE_PREFIX)["input_ids"]) == 34
    # Every prompt begins a new token.
    for prompt in ("a red fox", "红色狐狸", " the", "42"):
        assert len(tokenizer(TEMPLATE_PREFIX + prompt)["input_ids"]) == 34 + len(
            tokenizer(prompt)["input_ids"]
        )
    assert len(tokenizer("a red fox in the snow")["input_ids"]) == 6
    text = "ünusual wörds, 奇异的词 and emoji 🦊"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_every_weight_is_finite_and_every_file_readable_by_others(pipeline: Any) -> None:
    for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder):
        for name, parameter in part.named_parameters():
            assert parameter.isfinite().all(), name
    files = [path for path in CHECKPOINT.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 64 << 20
    for path in files:
        assert path.stat().st_mode & stat.S_IROTH, path


@pytest.mark.parametrize(
    ("change", "least"),
    [
        ({"prompt": "a cat on a purple background"}, 0.5),
        ({"prompt": "a rocket on a red background"}, 0.5),
        ({"seed": 2}, 0.2),
        ({"steps": 2}, 0.05),
    ],
    ids=str,
)
def test_subject_ground_seed_and_steps_change_the_image(
    pipeline: Any, reference: torch.Tensor, change: dict[str, Any], least: float
) -> None:
    assert difference(generate(pipeline, **change), reference) > least


def test_a_prompt_in_chinese_gives_nearly_the_same_image(
    pipeline: Any, reference: torch.Tensor
) -> None:
    assert difference(generate(pipeline, "紫色背景上的火箭"), reference) < 0.35


def test_the_same_request_gives_the_same_image(pipeline: Any, reference: torch.Tensor) -> None:
    assert torch.equal(generate(pipeline), reference)


@pytest.mark.parametrize("style", STYLES, ids=lambda style: style.name)
def test_a_shipped_adapter_is_described_loads_completely_and_changes_the_image(
    pipeline: Any, reference: torch.Tensor, style: Style
) -> None:
    path = ROOT / "loras" / f"{style.name}.safetensors"
    with safe_open(path, "pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
        assert all(file.get_tensor(key).isfinite().all() for key in keys)
    assert metadata["modelspec.title"] == style.title
    assert metadata["modelspec.trigger_phrase"] == ", ".join(style.triggers)
    assert path.stat().st_size <= 3 << 20
    pipeline.load_lora_weights(path, adapter_name=style.name)
    try:
        loaded = {
            f"transformer.{name.replace(f'.{style.name}', '')}"
            for name, _ in pipeline.transformer.named_parameters()
            if "lora_" in name
        }
        assert loaded == keys
        assert difference(generate(pipeline), reference) > 0.2
    finally:
        pipeline.unload_lora_weights()
    assert torch.equal(generate(pipeline), reference)


def test_the_image_is_not_noise_and_previews_show_its_colours(pipeline: Any) -> None:
    config = pipeline.vae.config
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std)
    )
    latents = pipeline._unpack_latents(generate(pipeline), 1024, 1024, 32)
    with torch.no_grad():
        image = pipeline.vae.decode(latents * std + mean).sample[0, :, 0]
    assert image.shape == (3, 1024, 1024)
    assert float((image.abs() >= 1.0).float().mean()) < 0.02
    assert all(0.1 < float(channel.std()) < 0.7 for channel in image)
    # Neighbouring pixels of static differ as much as any two; here by a hundredth of that.
    assert float(image.diff(dim=-1).std()) < 0.05 * float(image.std())

    preview = json.loads((CHECKPOINT / "vae" / "preview.json").read_text(encoding="utf-8"))
    factors, bias = torch.tensor(preview["factors"]), torch.tensor(preview["bias"])
    assert factors.shape == (32, 3)
    predicted = latents[0, :, 0].flatten(1).T @ factors + bias
    small = torch.nn.functional.avg_pool2d(image, 32).flatten(1).T
    left = (predicted - small).square().mean() / (small - small.mean(0)).square().mean()
    assert float(left) < 0.25


def test_trained_parts_become_a_checkpoint_of_the_stock_pipeline(tmp_path: Path) -> None:
    torch.manual_seed(0)
    made = trained.untrained(CHECKPOINT)
    trained.save(made, tmp_path / "base")
    vae.save(Autoencoder(), tmp_path)
    preview = json.loads((CHECKPOINT / "vae" / "preview.json").read_text(encoding="utf-8"))
    out = tmp_path / "checkpoint"
    assemble(tmp_path / "base", tmp_path / "vae_frames.safetensors", out, preview)
    files = [path for path in out.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 64 << 20
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in files)
    pipeline = QwenImagePipeline.from_pretrained(out, dtype=torch.bfloat16)
    for name, value in pipeline.transformer.state_dict().items():
        assert torch.equal(value, made.network.state_dict()[name].bfloat16()), name
    for name, value in pipeline.text_encoder.state_dict().items():
        assert torch.equal(value, made.text.state_dict()[name].bfloat16()), name
    assert (out / "vae" / "preview.json").is_file()
