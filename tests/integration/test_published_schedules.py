"""Published checkpoints with published few-step LoRAs: noise levels and latents equal stock's.

The checkpoint has every published setting of Qwen-Image-2512 and random weights of reduced size
(`tests.support.published_checkpoint`); the LoRAs are laid out as their publishers do. Stock
diffusers gets the scheduler config of each LoRA's model card, which users tend to forget.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImagePipeline

from inference_server.engine.engine import Engine
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.sources import open_source
from tests.support.few_step_loras import (
    LIGHTNING,
    PUBLISHED_SCHEDULER,
    TURBO,
    TURBO_2,
    write_few_step_lora,
)
from tests.support.published_checkpoint import make_published_checkpoint

CPU = torch.device("cpu")
PROMPT, SEED = "a red fox", 7
RIGHT = {
    LIGHTNING: {"base_shift": math.log(3), "max_shift": math.log(3), "shift_terminal": None},
    TURBO: {"base_shift": math.log(2.5), "max_shift": math.log(2.5), "shift_terminal": None},
    TURBO_2: {"base_shift": math.log(2.5), "max_shift": math.log(2.5), "shift_terminal": 0.7155},
}
STEPS = {LIGHTNING: 4, TURBO: 4, TURBO_2: 2}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_published_checkpoint(tmp_path_factory.mktemp("published") / "Qwen-Image-2512")


@pytest.fixture(scope="module")
def pipeline(checkpoint: Path) -> QwenImagePipeline:
    pipe = QwenImagePipeline.from_pretrained(checkpoint, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def lora(request: pytest.FixtureRequest, pipeline: QwenImagePipeline, tmp_path: Path) -> Path:
    linears = {
        name: (layer.in_features, layer.out_features)
        for name, layer in pipeline.transformer.named_modules()
        if isinstance(layer, torch.nn.Linear)
    }
    path = tmp_path / request.param
    return write_few_step_lora(path, linears, lightning=request.param == LIGHTNING)


def generate_stock(pipe: QwenImagePipeline, lora: Path) -> torch.Tensor:
    config = PUBLISHED_SCHEDULER | RIGHT[lora.name]
    pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    pipe.load_lora_weights(lora)
    try:
        latents: torch.Tensor = pipe(
            PROMPT,
            num_inference_steps=STEPS[lora.name],
            true_cfg_scale=1.0,
            height=1024,
            width=1024,
            generator=torch.Generator().manual_seed(SEED),
            output_type="latent",
        ).images[0]
    finally:
        pipe.unload_lora_weights()
    return latents


@pytest.mark.parametrize("lora", [LIGHTNING, TURBO, TURBO_2], indirect=True)
def test_sigmas_timesteps_and_latents_equal_stock(
    checkpoint: Path, pipeline: QwenImagePipeline, lora: Path
) -> None:
    stock = generate_stock(pipeline, lora)
    assert stock.std() > 0.5
    engine = Engine(load_model(open_source(checkpoint, lora), CPU, torch.float32))
    steps, table = STEPS[lora.name], engine.model.schedules
    assert table.schedule.steps == steps
    sigmas = pipeline.scheduler.sigmas.tolist()
    assert table.sigmas[steps] == pytest.approx(sigmas, abs=1e-6)
    timesteps = [1000 * table.rows[row] for row in table.row_of[steps]]
    assert timesteps == pytest.approx(pipeline.scheduler.timesteps.tolist(), abs=1e-3)
    image = engine.begin(engine.encode(PROMPT), SEED, steps)
    for _ in range(steps):
        engine.step([image])
    assert float((image.latents - stock).norm() / stock.norm()) < 1e-3


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inference_server", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("lora", [LIGHTNING], indirect=True)
def test_prepare_keeps_the_schedule(checkpoint: Path, lora: Path, tmp_path: Path) -> None:
    out = tmp_path / "prepared"
    done = run("prepare", "--model", checkpoint, "--turbo-lora", lora, "--out", out)
    assert done.returncode == 0, done.stderr
    assert "schedule lightning: Lightning's, by" in " ".join(done.stderr.split())
    prepared = open_source(out, None)
    assert str(prepared.schedule.schedule) == "lightning" and not prepared.schedule.warning
    assert open_source(out, None, "lightning") and open_source(out, None, "shift=3")
    for other in ("turbo", "checkpoint", "shift=3,terminal=0.02"):
        with pytest.raises(ModelError, match="prepared for the schedule lightning"):
            open_source(out, None, other)
    (out / "scheduler" / "scheduler_config.json").write_text(json.dumps({"shift": 2.0}))
    with pytest.raises(ModelError, match="has changed since it was prepared"):
        open_source(out, None)


@pytest.mark.parametrize("lora", [TURBO_2], indirect=True)
def test_an_unknown_lora_is_refused_at_start_in_one_line(checkpoint: Path, lora: Path) -> None:
    unknown = lora.rename(lora.with_name("fast.safetensors"))
    for command in (
        ("--model", checkpoint, "--turbo-lora", unknown, "--listen", "127.0.0.1:0"),
        (
            "prepare",
            "--model",
            checkpoint,
            "--turbo-lora",
            unknown,
            "--out",
            unknown.parent / "out",
        ),
    ):
        done = run(*command)
        assert done.returncode == 1
        said = done.stderr.strip().splitlines()
        assert "fast.safetensors are not known" in said[-1] and "--schedule: lightning" in said[-1]
        assert "Traceback" not in done.stderr


def test_a_schedule_that_is_not_understood_is_refused_at_start(checkpoint: Path) -> None:
    done = run("--model", checkpoint, "--schedule", "karras", "--listen", "127.0.0.1:0")
    assert done.returncode == 1 and "choose lightning" in done.stderr.strip().splitlines()[-1]
