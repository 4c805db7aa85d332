"""Element types of GGUF files: their numbers, names and blocks.

Source: ggml's `ggml_type`; a type's number is part of the format.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple

import torch

from inference_server.model.weights import gguf_blocks
from inference_server.model.weights.gguf_blocks import FillBlocks


class PlainType(NamedTuple):
    """A type whose elements are stored one by one."""

    name: str
    dtype: torch.dtype

    @property
    def elements(self) -> int:
        """Elements of a block."""
        return 1

    @property
    def nbytes(self) -> int:
        """Bytes of a block."""
        return self.dtype.itemsize


class BlockType(NamedTuple):
    """A quantization type: blocks of elements that share scales."""

    name: str
    elements: int
    nbytes: int
    halves: tuple[int, ...]
    """Where a block holds a float16 that scales all its elements, in bytes from its beginning."""
    fill: FillBlocks


ElementType = PlainType | BlockType

TYPES: Final[Mapping[int, ElementType]] = {
    0: PlainType("F32", torch.float32),
    1: PlainType("F16", torch.float16),
    2: BlockType("Q4_0", 32, 18, (0,), gguf_blocks.q4_0),
    3: BlockType("Q4_1", 32, 20, (0, 2), gguf_blocks.q4_1),
    6: BlockType("Q5_0", 32, 22, (0,), gguf_blocks.q5_0),
    7: BlockType("Q5_1", 32, 24, (0, 2), gguf_blocks.q5_1),
    8: BlockType("Q8_0", 32, 34, (0,), gguf_blocks.q8_0),
    10: BlockType("Q2_K", 256, 84, (80, 82), gguf_blocks.q2_k),
    11: BlockType("Q3_K", 256, 110, (108,), gguf_blocks.q3_k),
    12: BlockType("Q4_K", 256, 144, (0, 2), gguf_blocks.q4_k),
    13: BlockType("Q5_K", 256, 176, (0, 2), gguf_blocks.q5_k),
    14: BlockType("Q6_K", 256, 210, (208,), gguf_blocks.q6_k),
    30: PlainType("BF16", torch.bfloat16),
}
"""The types that are read."""

OTHER_TYPES: Final[Mapping[int, str]] = {
    9: "Q8_1",
    15: "Q8_K",
    16: "IQ2_XXS",
    17: "IQ2_XS",
    18: "IQ3_XXS",
    19: "IQ1_S",
    20: "IQ4_NL",
    21: "IQ3_S",
    22: "IQ2_S",
    23: "IQ4_XS",
    24: "I8",
    25: "I16",
    26: "I32",
    27: "I64",
    28: "F64",
    29: "IQ1_M",
    34: "TQ1_0",
    35: "TQ2_0",
    39: "MXFP4",
    40: "NVFP4",
    41: "Q1_0",
}
"""Types that are refused by name."""
