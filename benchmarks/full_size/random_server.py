"""The real server with a model of Qwen-Image's real shapes whose weights are random.

    python -m benchmarks.full_size.random_server [wuliart-server's own arguments]

For measuring the whole service at full size on a machine without the checkpoint. `WULIART_TINY=1`
takes a model that a CPU can generate with.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks.full_size.random_model import FULL, TINY, RandomSource
from inference_server import assembly
from inference_server.__main__ import main


def open_source(model: Path, turbo_lora: Path | None) -> RandomSource:
    """In place of `inference_server.loading.sources.open_source`; looks at nothing it is given."""
    if os.environ.get("WULIART_TINY"):
        return RandomSource(TINY, torch.device("cpu"))
    return RandomSource(FULL, torch.device("cuda"))


if __name__ == "__main__":
    vars(assembly)["open_source"] = open_source
    main()
