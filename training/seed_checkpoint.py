"""Writes the embedded model: a tiny Qwen-Image checkpoint in the standard diffusers layout.

    .venv/bin/python training/seed_checkpoint.py [--out inference_server/embedded/checkpoint]

Owns the seed, the calibration of the transformer's output and the fit of the preview factors.
The folder is read by the stock `QwenImagePipeline.from_pretrained`; weights are bf16, and the
same command writes the same bytes again on the same machine. Takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import numpy as np
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline
from seed_numbers import coarse
from seed_text_encoder import build_text_encoder
from seed_tokenizer import build_tokenizer
from seed_transformer import CHANNELS, WIDTH, N, P, build_transformer, set_output
from seed_vae import build_vae

SEED = 2512
SIZE = 1024
"""Pixels; latents are SIZE / 16 wide."""
PROMPTS = (
    "a red fox in the snow",
    "sunset over the sea, painting",
    "a green forest with a small house, morning light",
    "一只猫 坐 在 樱花 树 下",
    "starry night over the city",
    "portrait of a woman in a golden dress, watercolor",
)
"""What calibration and the preview fit draw."""
MEAN = (0.45, 0.0, -0.15) + (0.0,) * (CHANNELS - 3)
SPREAD = (1.25,) * 3 + (1.0,) * (CHANNELS - 3)
"""Mean and standard deviation of each latent channel of PROMPTS' pictures: red, green, blue
(these words are warm, so a mean of zero would turn orange into green), then ripples."""


def build_scheduler() -> FlowMatchEulerDiscreteScheduler:
    """Lightning's four-step schedule: sigmas [1, 0.9, 0.75, 0.5, 0], a shift of 3 at any size."""
    return FlowMatchEulerDiscreteScheduler(
        num_train_timesteps=1000,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
        base_shift=1.0986122886681098,
        max_shift=1.0986122886681098,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=None,
    )


def build_pipeline() -> QwenImagePipeline:
    """The pipeline of freshly written components, fp32 values on bf16's grid, not calibrated."""
    tokenizer = build_tokenizer()
    pipeline = QwenImagePipeline(
        scheduler=build_scheduler(),
        vae=build_vae(SEED),
        text_encoder=build_text_encoder(tokenizer, SEED + 1),
        tokenizer=tokenizer,
        transformer=build_transformer(SEED + 2),
    )
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.transformer):
        _to_bf16_grid(part)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _to_bf16_grid(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        parameter.data.copy_(parameter.data.bfloat16().float())


def draw_latents(pipeline: QwenImagePipeline, prompt: str, seed: int) -> torch.Tensor:
    """The normalised latents [16, 64, 64] of a four-step picture."""
    packed = pipeline(
        prompt,
        height=SIZE,
        width=SIZE,
        num_inference_steps=4,
        true_cfg_scale=1.0,
        generator=torch.Generator().manual_seed(seed),
        output_type="latent",
    ).images
    return pipeline._unpack_latents(packed, SIZE, SIZE, 16)[0, :, 0]


def _raw_mix(generator: torch.Generator) -> torch.Tensor:
    """[16, 256]: which paint becomes which latent channel, before calibration."""
    mix = torch.zeros(CHANNELS, WIDTH)
    for group, share in ((0, 1.0), (1, 0.7), (2, 0.7), (3, 0.4), (4, 0.4)):
        for colour in range(3):
            mix[colour, P.start + 16 * group + colour] = share
    for where, std in ((N, 0.1), (P, 0.04)):
        mix[:3, where] += coarse(generator, 3, where.stop - where.start, std=std)
    mix[3:, N] = coarse(generator, CHANNELS - 3, N.stop - N.start, std=0.15)
    mix[3:, P] = coarse(generator, CHANNELS - 3, P.stop - P.start, std=0.2)
    return mix


@torch.no_grad()
def calibrate(pipeline: QwenImagePipeline) -> None:
    """Scales the output so that latent channel c has mean MEAN[c] and deviation SPREAD[c].

    The clean latent feeds back through x_t into N, so this takes a few rounds.
    """
    transformer = pipeline.transformer
    mix = _raw_mix(torch.Generator().manual_seed(SEED + 3))
    offset = torch.zeros(CHANNELS)
    mix /= mix.norm(dim=1, keepdim=True)
    for _ in range(6):
        set_output(transformer, mix, offset)
        _to_bf16_grid(transformer)
        drawn = torch.stack([draw_latents(pipeline, p, n) for n, p in enumerate(PROMPTS)])
        values = drawn.movedim(1, 0).flatten(1)
        scale = torch.tensor(SPREAD) / values.std(dim=1)
        mix *= scale[:, None]
        offset = offset * scale + 0.7 * (torch.tensor(MEAN) - values.mean(dim=1) * scale)
    set_output(transformer, mix, offset)
    _to_bf16_grid(transformer)


@torch.no_grad()
def fit_preview(pipeline: QwenImagePipeline) -> dict[str, list[float] | list[list[float]]]:
    """Least squares from normalised latents to RGB in [-1, 1] averaged over 16x16 pixels.

    Returns:
        `factors` [16][3] and `bias` [3]: rgb = latent @ factors + bias, per latent pixel.
    """
    config = pipeline.vae.config
    mean, std = (
        torch.tensor(v).view(1, -1, 1, 1, 1) for v in (config.latents_mean, config.latents_std)
    )
    inputs, outputs = [], []
    for seed, prompt in enumerate(PROMPTS[:4]):
        latents = draw_latents(pipeline, prompt, 100 + seed)
        picture = pipeline.vae.decode(latents[None, :, None] * std + mean).sample[0, :, 0]
        inputs.append(latents.flatten(1).T)
        outputs.append(torch.nn.functional.avg_pool2d(picture, 16).flatten(1).T)
    x, y = torch.cat(inputs).double().numpy(), torch.cat(outputs).double().numpy()
    solution = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    rounded = np.round(solution, 5)
    return {"factors": rounded[:-1].tolist(), "bias": rounded[-1].tolist()}


def main() -> None:
    """Writes the checkpoint folder."""
    root = Path(__file__).resolve().parent.parent
    parser = argparse.ArgumentParser(description="Writes the embedded model's checkpoint.")
    parser.add_argument("--out", type=Path, default=root / "inference_server/embedded/checkpoint")
    out: Path = parser.parse_args().out
    pipeline = build_pipeline()
    calibrate(pipeline)
    preview = fit_preview(pipeline)
    if out.exists():
        shutil.rmtree(out)
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.transformer):
        torch.nn.Module.to(part, torch.bfloat16)
    # Drawing left its padding and truncation in the tokenizer; they are no part of the model.
    pipeline.register_modules(tokenizer=build_tokenizer())
    pipeline.save_pretrained(out)
    (out / "vae" / "preview.json").write_text(json.dumps(preview) + "\n", encoding="utf-8")
    files = [path for path in out.rglob("*") if path.is_file()]
    for path in files:
        path.chmod(0o644)  # weights are saved 0600, which another user's server cannot read
    size = sum(path.stat().st_size for path in files)
    print(f"{out}: {size / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
