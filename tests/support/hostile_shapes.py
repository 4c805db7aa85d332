"""Parses LoRA files whose tensors have any shapes, and watches the memory that it takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Mapping, Sequence

import numpy as np

from tests.support.lora_files import pack
from wuliart_lora import LoraAdapter, LoraError, parse_lora

WIDTHS = {"F32": 4, "F16": 2, "F8_E4M3": 1, "I32": 4}
"""Element type -> bytes."""


def parsed_or_refused(
    module: str,
    shapes: Mapping[str, Sequence[int]],
    dtype: str,
    fill: int,
    features: Mapping[str, tuple[int, int]],
    max_rank: int,
) -> LoraAdapter | None:
    """Parses one module's tensors; None if they are refused, with a reason that can be printed.

    Args:
        module: the module's path.
        shapes: last part of a tensor's name -> its shape.
        dtype: key of WIDTHS.
        fill: every byte of the content.
        features: see `parse_lora`, like `max_rank`.
    """
    data = pack(
        {
            f"{module}.{name}": (
                dtype,
                shape,
                bytes([fill]) * (WIDTHS[dtype] * int(np.prod(shape))),
            )
            for name, shape in shapes.items()
        }
    )
    tracemalloc.start()
    try:
        return parse_lora(data, features, max_rank)
    except LoraError as error:
        assert error.reason.isprintable()
        return None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < (1 << 20) + 40 * len(data)
