"""The kinds of stored matrices; imported by the command line, so it must not import torch."""

from __future__ import annotations

from enum import StrEnum


class WeightKind(StrEnum):
    """How the matrices of the blocks are stored."""

    BF16 = "bf16"
    """Not quantized; float32 where the whole model is."""
    FP8 = "fp8"
    """float8_e4m3fn with one float32 scale for each output."""
