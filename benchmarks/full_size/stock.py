"""Stock diffusers at Qwen-Image's real size in little memory: group offload with streams.

`python -m benchmarks.full_size stock [--out FILE]` keeps random weights in host memory and one
block at a time on the GPU, as diffusers' documentation advises for small cards. Compare it with
`images --vram-budget 18.7GB`. Needs 70 GB of host memory.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from diffusers.hooks.group_offloading import apply_group_offloading
from transformers import AutoTokenizer, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.full_size.images import PROMPT, STEPS, used
from benchmarks.full_size.random_model import FULL, TINY
from inference_server.config import EMBEDDED_MODEL
from inference_server.model.offload.pinned_memory import host_memory


def to_host(model: Any, device: torch.device) -> None:
    """Moves parameters into pinned memory; diffusers would pin a second copy of pageable ones."""
    for parameter in model.parameters():
        place = host_memory(parameter.nbytes, device).view(parameter.dtype)
        parameter.data = place.view(parameter.shape).copy_(parameter.data)


def build(configs: dict[str, dict[str, Any]], device: torch.device) -> Any:
    """Builds the pipeline with its large parts in host memory."""
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            transformer: Any = QwenImageTransformer2DModel(**configs["transformer"])
            to_host(transformer, device)
            config = Qwen2_5_VLConfig(
                text_config=configs["text_encoder"],
                vision_config={"out_hidden_size": configs["text_encoder"]["hidden_size"]},
            )
            text: Any = Qwen2_5_VLForConditionalGeneration(config)
            to_host(text, device)
            vae: Any = AutoencoderKLQwenImage(**configs["vae"])
    finally:
        torch.set_default_dtype(torch.float32)
    if device.type == "cuda":
        torch.cuda.empty_cache()
    host, streams = torch.device("cpu"), device.type == "cuda"
    apply_group_offloading(
        transformer, device, host, "block_level", num_blocks_per_group=1, use_stream=streams
    )
    # By leaf, because the embedding is read outside of the module that holds the list of layers.
    apply_group_offloading(text, device, host, "leaf_level", use_stream=streams)
    vae.enable_tiling()
    pipeline: Any = QwenImagePipeline(
        scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(EMBEDDED_MODEL / "scheduler"),
        vae=vae,
        text_encoder=text,
        tokenizer=AutoTokenizer.from_pretrained(EMBEDDED_MODEL / "tokenizer"),
        transformer=transformer,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def main() -> None:
    """Builds the pipeline, generates images, and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=3)
    parser.add_argument("--tiny", action="store_true", help="a small model, on a CPU")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    device = torch.device("cpu" if chosen.tiny else "cuda:0")
    pipeline = build(TINY if chosen.tiny else FULL, device)
    totals, steps, peak = [], [], 0.0
    for number in range(chosen.images + 1):
        marks = [time.perf_counter()]

        def mark(_: Any, step: int, timestep: Any, kept: Any, marks: list[float] = marks) -> Any:
            if device.type == "cuda":
                torch.cuda.synchronize()
            marks.append(time.perf_counter())
            return kept

        pipeline(
            PROMPT.format(number),
            num_inference_steps=STEPS,
            true_cfg_scale=1.0,
            height=1024,
            width=1024,
            callback_on_step_end=mark,
        )
        peak = max(peak, used(device))
        if number:
            totals.append(time.perf_counter() - marks[0])
            steps.append((marks[-1] - marks[1]) / (STEPS - 1))
    line = {
        "device": "cpu" if chosen.tiny else torch.cuda.get_device_name(),
        "stock group offload, step, ms": 1e3 * statistics.median(steps),
        "stock group offload, image, ms": 1e3 * statistics.median(totals),
        "peak, GB by the driver": peak,
    }
    print(json.dumps(line))
    if chosen.out:
        chosen.out.write_text(json.dumps(line) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
