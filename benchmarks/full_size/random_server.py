"""The real server with a model of Qwen-Image's shapes and random weights.

`python -m benchmarks.full_size.random_server [OPTION ...]` takes wuliart-server's options. It
serves measurements of the whole service on a machine without the checkpoint; with `WULIART_TINY=1`
the model is small enough for a CPU.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from benchmarks.full_size.random_model import FULL, TINY, RandomSource
from inference_server import assembly
from inference_server.__main__ import main as serve
from inference_server.loading.sources import NO_PARTS
from inference_server.model.weights.source import Source
from inference_server.model_parts import ModelParts


def open_source(
    model: Path,
    turbo_lora: Path | None,
    schedule: str | None = None,
    parts: ModelParts = NO_PARTS,
) -> Source:
    """Replaces `inference_server.loading.sources.open_source`; ignores its arguments."""
    if os.environ.get("WULIART_TINY"):
        return RandomSource(TINY, torch.device("cpu"))
    return RandomSource(FULL, torch.device("cuda"))


def main() -> None:
    """Runs the server."""
    # Assigned by name, so that mypy compares the signatures.
    assembly.open_source = open_source  # type: ignore[attr-defined]
    serve()


if __name__ == "__main__":
    main()
