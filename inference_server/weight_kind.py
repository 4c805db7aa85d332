"""How a transformer's matrices are stored. Known to the command line, so it imports nothing."""

from __future__ import annotations

from enum import StrEnum


class WeightKind(StrEnum):
    """How the matrices of the blocks are stored."""

    BF16 = "bf16"
    """As they are; in float32 where the whole model is."""
    FP8 = "fp8"
    """float8_e4m3fn with one float32 scale for each output."""
