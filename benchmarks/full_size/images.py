"""Whole images at Qwen-Image's real size through the product's own engine, on one GPU.

`python -m benchmarks.full_size images [--vram-budget 18.7GB --idle-vram 11.2GB] [--weights fp8]`
measures every stage, memory by the driver's count, batches against single images, and `--images`
images in a row, with random weights. Prints a line per value, then one line of JSON. `--tiny` runs
on a CPU.
"""

from __future__ import annotations

import argparse
import statistics
import time
from itertools import pairwise
from pathlib import Path

import torch

from benchmarks.full_size.random_model import FULL, TINY, RandomSource
from benchmarks.report import Report
from inference_server.config import size
from inference_server.engine.engine import Engine
from inference_server.engine.jpeg import encode_image
from inference_server.engine.latent_image import LatentImage
from inference_server.loading.load import load_model
from inference_server.loading.model_plan import MemoryLimits
from inference_server.weight_kind import WeightKind

PROMPT = "a lighthouse on a cliff above a stormy sea at dusk, seen from a small boat, number {}"
STEPS = 4
SLOTS, RANK = 2, 16
"""Two resident adapters of rank 16; the segment has a spare slot besides."""


def used(device: torch.device) -> float:
    """Returns the GB in use by the driver's count, CUDA context included; the card is exclusive."""
    if device.type == "cpu":
        return 0.0
    free, total = torch.cuda.mem_get_info(device)
    return (total - free) / 1e9


def synchronize(engine: Engine) -> None:
    """Waits for all launched work."""
    if engine.model.device.type == "cuda":
        torch.cuda.synchronize()


def image(engine: Engine, number: int, staged: bool = False) -> dict[str, float]:
    """Generates one image with a new prompt; returns the seconds of each stage.

    Only with `staged` do the stages wait for each other and have times of their own.
    """
    engine.rest()
    synchronize(engine)
    marks = [time.perf_counter()]

    def mark() -> None:
        if staged:
            synchronize(engine)
        marks.append(time.perf_counter())

    prompt = engine.encode(PROMPT.format(number))
    mark()
    latent_image = engine.begin(prompt, number, STEPS)
    for _ in range(STEPS):
        engine.step([latent_image])
        engine.check_finite(latent_image)
    mark()
    pixels = engine.decode(latent_image)
    mark()
    encode_image(pixels)
    mark()
    names = ("text encode", "denoise", "decode", "jpeg")
    spans = [later - sooner for sooner, later in pairwise(marks)]
    black = float(pixels.float().std() == 0)
    return dict(zip(names, spans, strict=True)) | {"total": marks[-1] - marks[0], "black": black}


def batch_seconds(engine: Engine, count: int) -> float:
    """Measures the seconds of one batch of `count` images whose prompts are cached."""
    prompts = [engine.encode(PROMPT.format(0)) for _ in range(count)]
    synchronize(engine)
    began = time.perf_counter()
    images: list[LatentImage] = [engine.begin(p, n, STEPS) for n, p in enumerate(prompts)]
    for _ in range(STEPS):
        engine.step(images)
        for latent_image in images:
            engine.check_finite(latent_image)
    for latent_image in images:
        engine.decode(latent_image)
    return time.perf_counter() - began


def main() -> None:
    """Loads the model, generates, and reports."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--vram-budget", type=size)
    parser.add_argument("--idle-vram", type=size)
    parser.add_argument("--weights", type=WeightKind, default=WeightKind.BF16)
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--out", type=Path)
    chosen = parser.parse_args()
    device = torch.device("cpu" if chosen.tiny else "cuda:0")
    limits = MemoryLimits(chosen.vram_budget, chosen.idle_vram, SLOTS, RANK)
    source = RandomSource(TINY if chosen.tiny else FULL, device)
    began = time.perf_counter()
    model = load_model(
        source, device, torch.bfloat16, name="random", limits=limits, weights=chosen.weights
    )
    engine = Engine(model)
    # The arena of the adapters, which the server allocates beside the model.
    nbytes = model.adapter_capacity.allocated * model.layout(RANK).slot_bytes
    arena = torch.zeros(nbytes, dtype=torch.uint8, device=device)
    line: dict[str, object] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "cpu",
        "weights": chosen.weights,
        "plan": dict(model.plan.segments()),
        "blocks": [model.plan.resident_blocks, model.plan.cached_blocks],
    }

    report = Report(line, line, chosen.out)
    report("load, s", time.perf_counter() - began)
    report("arena, GB", arena.nbytes / 1e9)
    began = time.perf_counter()
    engine.warm_up()
    report("warm-up, s", time.perf_counter() - began)
    report("idle, GB by the driver", used(device))
    report("idle, GB by the plan", model.plan.idle / 1e9)
    report("peak, GB by the plan", model.plan.peak / 1e9)
    stages = [image(engine, number, True) for number in range(5)]
    for stage in ("text encode", "denoise", "decode", "jpeg"):
        report(f"{stage}, ms", 1e3 * statistics.median(row[stage] for row in stages))
    report("step, ms", 1e3 * statistics.median(row["denoise"] for row in stages) / STEPS)
    alone = statistics.median(batch_seconds(engine, 1) for _ in range(3))
    report("images that share a step by default", model.images_per_step)
    for count in (2, 3, 4):
        report(f"batch of {count} against one by one", count * alone / batch_seconds(engine, count))
    report("with a batch of four, GB by the driver", used(device))
    engine.rest()
    rows, peak = [], 0.0
    for number in range(1, chosen.images + 1):
        rows.append(image(engine, 100 + number))
        peak = max(peak, used(device))
        if number == 1 or number % 25 == 0 or number == chosen.images:
            report(f"memory after {number}, GB", used(device))
            report("peak, GB by the driver", peak)
            seconds = statistics.median(row["total"] for row in rows)
            report("prompt to JPEG, ms", 1e3 * seconds)
            report("black", sum(row["black"] for row in rows))
    engine.rest()
    report("idle after all, GB by the driver", used(device))
    print(report.text())


if __name__ == "__main__":
    main()
