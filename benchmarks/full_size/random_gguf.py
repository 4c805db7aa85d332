"""GGUF files of given shapes with random content, in the types that published files have.

Matrices of the layers take the form's types in turn, vectors are F32 and other matrices BF16. They
are written tensor by tensor from a pool of random blocks, so a file of 20 GB takes little memory.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import gguf
import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from inference_server.model.weights.gguf_types import TYPES, BlockType

FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    "gguf-q8_0": ("Q8_0",),
    "gguf-q4_k_m": ("Q4_K", "Q4_K", "Q4_K", "Q6_K"),
    "gguf-q5_k_m": ("Q5_K", "Q5_K", "Q5_K", "Q6_K"),
}
"""Form -> the types that its matrices take in turn."""

POOL_BLOCKS: Final = 4096
SCALE: Final = 1e-4
"""Of every block; its weights are about as large as trained ones."""
_MATRIX: Final = re.compile(r"(_blocks|blk)\.\d+\.|token_embd")

Shapes = Mapping[str, tuple[int, ...]]


def write_gguf(path: Path, shapes: Shapes, form: str, architecture: str) -> Path:
    """Writes a component as a GGUF file in one of FORMS."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer, turn = GGUFWriter(path, architecture), itertools.cycle(FORMS[form])
    stored: list[tuple[GGMLQuantizationType, int]] = []
    for name, shape in shapes.items():
        matrix = len(shape) == 2 and _MATRIX.search(name)
        name_of_kind = next(turn) if matrix else "F32" if len(shape) == 1 else "BF16"
        kind = GGMLQuantizationType[name_of_kind]
        elements, nbytes = GGML_QUANT_SIZES[kind]
        row = (*shape[:-1], shape[-1] // elements * nbytes)
        total = int(np.prod(row))
        writer.add_tensor_info(name, row, np.dtype(np.uint8), total, raw_dtype=kind)
        stored.append((kind, total))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    pools = {kind: _pool(kind) for kind, _ in stored}
    for kind, total in stored:
        writer.write_tensor_data(np.resize(pools[kind], total))
    writer.close()
    return path


def llama_names(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    """Returns a text encoder's shapes by llama.cpp's names instead of transformers'."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2VL, 28)
    found = {}
    for name, shape in shapes.items():
        known = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert known is not None, name
        found[known] = shape
    return found


def _pool(kind: GGMLQuantizationType) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Returns the bytes of random blocks, or of elements that are all `SCALE`."""
    block = TYPES[kind.value]
    if not isinstance(block, BlockType):
        values = np.full(POOL_BLOCKS, SCALE, np.float32)
        return np.asarray(gguf.quantize(values, kind)).view(np.uint8)
    random = np.random.default_rng(0)
    data = random.integers(0, 256, (POOL_BLOCKS, block.nbytes), np.uint8)
    for at in block.halves:
        data[:, at : at + 2] = np.array([SCALE], "<f2").view(np.uint8)
    return data.reshape(-1)
