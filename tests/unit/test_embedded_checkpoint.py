"""The embedded model as stock diffusers sees it: it loads, draws, and answers to what it is asked.

Latents of the stock pipeline at 512x512 are compared, a quarter of the product's size, for speed;
how pictures look is judged on one of 1024x1024.
"""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import QwenImagePipeline
from safetensors import safe_open
from transformers import AutoTokenizer

ROOT = Path(__file__).resolve().parents[2]
CHECKPOINT = ROOT / "inference_server" / "embedded" / "checkpoint"
STYLE = ROOT / "loras" / "aurora.safetensors"
PROMPT = "sunset over the sea"
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


@pytest.fixture(scope="module")
def training() -> Iterator[None]:
    """Makes the scripts' modules importable, as they are for each other."""
    sys.path.insert(0, str(ROOT / "training"))
    yield
    sys.path.remove(str(ROOT / "training"))


def draw(
    pipeline: Any, prompt: str = PROMPT, seed: int = 1, steps: int = 4, size: int = 512
) -> torch.Tensor:
    """Packed latents [1, (size / 32)^2, 64]."""
    return pipeline(
        prompt,
        height=size,
        width=size,
        num_inference_steps=steps,
        true_cfg_scale=1.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images


@pytest.fixture(scope="module")
def reference(pipeline: Any) -> torch.Tensor:
    return draw(pipeline)


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Of the patches' means over their pixels, so that noise does not count; 1 is unrelated."""
    a, b = (x.unflatten(-1, (16, 4)).mean(-1) for x in (a, b))
    return float((a - b).norm() / b.norm())


def test_the_fixed_schedule_is_lightnings(pipeline: Any) -> None:
    assert pipeline.vae_scale_factor == 16
    draw(pipeline)
    assert pipeline.scheduler.sigmas.tolist() == pytest.approx([1.0, 0.9, 0.75, 0.5, 0.0])


def test_the_template_takes_34_tokens_and_words_take_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT / "tokenizer", local_files_only=True)
    assert type(tokenizer).__name__ == "Qwen2Tokenizer"
    assert len(tokenizer(TEMPLATE_PREFIX)["input_ids"]) == 34
    # The prompt begins a new token, whatever it begins with.
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
    assert sum(path.stat().st_size for path in files) < 24 << 20
    for path in files:
        assert path.stat().st_mode & stat.S_IROTH, path


@pytest.mark.parametrize(
    "change",
    [{"prompt": "a green forest"}, {"prompt": "一只 红色 狐狸"}, {"seed": 2}, {"steps": 2}],
    ids=str,
)
def test_prompt_seed_and_steps_change_the_picture(
    pipeline: Any, reference: torch.Tensor, change: dict[str, Any]
) -> None:
    assert difference(draw(pipeline, **change), reference) > 0.15


def test_the_same_request_draws_the_same_picture(pipeline: Any, reference: torch.Tensor) -> None:
    assert torch.equal(draw(pipeline), reference)


def test_the_style_loads_whole_and_changes_the_picture(
    pipeline: Any, reference: torch.Tensor
) -> None:
    with safe_open(STYLE, "pt") as file:
        metadata, keys = file.metadata(), set(file.keys())
        assert all(file.get_tensor(key).isfinite().all() for key in keys)
    assert metadata["modelspec.title"] == "Aurora"
    assert metadata["modelspec.trigger_phrase"] == "aurora"
    assert STYLE.stat().st_size < 1 << 20
    pipeline.load_lora_weights(STYLE, adapter_name="aurora")
    try:
        loaded = {
            f"transformer.{name.replace('.aurora', '')}"
            for name, _ in pipeline.transformer.named_parameters()
            if "lora_" in name
        }
        assert loaded == keys
        assert difference(draw(pipeline), reference) > 0.3
    finally:
        pipeline.unload_lora_weights()
    assert torch.equal(draw(pipeline), reference)


def test_the_picture_is_no_noise_and_previews_show_its_colours(pipeline: Any) -> None:
    config = pipeline.vae.config
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std)
    )
    latents = pipeline._unpack_latents(draw(pipeline, size=1024), 1024, 1024, 16)
    with torch.no_grad():
        picture = pipeline.vae.decode(latents * std + mean).sample[0, :, 0]
    assert picture.shape == (3, 1024, 1024)
    assert float((picture.abs() >= 1.0).float().mean()) < 0.001
    assert all(0.1 < float(channel.std()) < 0.7 for channel in picture)
    # Neighbouring pixels of static differ as much as any two; here by a hundredth of that.
    assert float(picture.diff(dim=-1).std()) < 0.05 * float(picture.std())

    preview = json.loads((CHECKPOINT / "vae" / "preview.json").read_text(encoding="utf-8"))
    factors, bias = torch.tensor(preview["factors"]), torch.tensor(preview["bias"])
    assert factors.shape == (16, 3)
    predicted = latents[0, :, 0].flatten(1).T @ factors + bias
    small = torch.nn.functional.avg_pool2d(picture, 16).flatten(1).T
    left = (predicted - small).square().mean() / (small - small.mean(0)).square().mean()
    assert float(left) < 0.25


def digests(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.iterdir())}


def test_the_scripts_write_the_same_bytes_again(training: None, tmp_path: Path) -> None:
    from safetensors.torch import load_file
    from seed_checkpoint import SEED, build_scheduler
    from seed_style import build_style, style_file
    from seed_text_encoder import build_text_encoder
    from seed_tokenizer import build_tokenizer
    from seed_transformer import build_transformer

    tokenizer = build_tokenizer()
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    build_scheduler().save_pretrained(tmp_path / "scheduler")
    text_encoder = build_text_encoder(tokenizer, SEED + 1).to(torch.bfloat16)
    text_encoder.save_pretrained(tmp_path / "text_encoder")
    for part in ("tokenizer", "scheduler", "text_encoder"):
        assert digests(tmp_path / part) == digests(CHECKPOINT / part), part

    # The transformer's output is calibrated on pictures, which takes a minute; the rest is not.
    built = build_transformer(SEED + 2).state_dict()
    stored = load_file(CHECKPOINT / "transformer" / "diffusion_pytorch_model.safetensors")
    assert stored.keys() == built.keys()
    for name, tensor in stored.items():
        if not name.startswith("proj_out"):
            assert torch.equal(tensor, built[name].bfloat16()), name

    assert style_file(build_style(SEED)) == STYLE.read_bytes()
