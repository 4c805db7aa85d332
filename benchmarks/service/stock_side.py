"""One side of `stock` as a process: `python -m benchmarks.service.stock_side SIDE N`."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from inference_server.config import EMBEDDED_MODEL

PROMPT = "a lighthouse above the sea at dusk"


def _ours() -> Callable[[int], object]:
    from inference_server.engine.engine import Engine
    from inference_server.loading.load import load_model
    from inference_server.loading.sources import open_source

    source = open_source(EMBEDDED_MODEL, None)
    engine = Engine(load_model(source, torch.device("cpu"), torch.float32))

    def generate(seed: int) -> object:
        # A new prompt each time, so that the prompt cache does not help.
        image = engine.begin(engine.encode(f"{PROMPT} {seed}"), seed, 4)
        for _ in range(4):
            engine.step([image])
        return engine.decode(image)

    return generate


def _stock() -> Callable[[int], object]:
    from diffusers import QwenImagePipeline

    pipe = QwenImagePipeline.from_pretrained(EMBEDDED_MODEL, torch_dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def generate(seed: int) -> object:
        generator = torch.Generator().manual_seed(seed)
        return pipe(
            f"{PROMPT} {seed}",
            num_inference_steps=4,
            true_cfg_scale=1.0,
            height=1024,
            width=1024,
            generator=generator,
        ).images[0]

    return generate


def _resident_mb() -> float:
    with Path("/proc/self/statm").open() as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> None:
    """Loads, warms up with one image, then generates N and prints one line of JSON."""
    generate = {"ours": _ours, "stock": _stock}[sys.argv[1]]()
    loaded = _resident_mb()
    generate(0)
    times = []
    for seed in range(1, int(sys.argv[2]) + 1):
        began = time.perf_counter()
        generate(seed)
        times.append(time.perf_counter() - began)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    result = {
        "seconds": statistics.median(times),
        "peak_mb": peak,
        "generating_mb": peak - loaded,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
