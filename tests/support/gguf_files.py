"""GGUF files as ComfyUI-GGUF and llama.cpp write them, made with the package `gguf`.

The package quantizes no K-quants. Every block of bytes is a valid one, so those are random, with
scales that give the weights the size of a trained layer's.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gguf
import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, GGUFWriter

from inference_server.model.weights.gguf_types import TYPES, BlockType

BLOCKS = {kind.name: kind for kind in TYPES.values() if isinstance(kind, BlockType)}
"""The quantization types by name."""
PLAIN = tuple(kind.name for kind in TYPES.values() if kind.name not in BLOCKS)


class Stored(NamedTuple):
    """A tensor as a file holds it."""

    data: np.ndarray[Any, Any]
    """Rows of blocks in uint8, or elements."""
    kind: GGMLQuantizationType

    @property
    def values(self) -> np.ndarray[Any, Any]:
        """What it means in float32, by the package."""
        return gguf.dequantize(self.data, self.kind)


def random_tensor(name: str, shape: tuple[int, ...], seed: int = 0) -> Stored:
    """Returns a random tensor of a type; its elements have a deviation of about 1 / sqrt(row)."""
    random = np.random.default_rng(seed)
    kind = GGMLQuantizationType[name]
    if name not in BLOCKS:
        values = random.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        return Stored(gguf.quantize(values, kind), kind)
    block = BLOCKS[name]
    data = random.integers(0, 256, (*shape[:-1], shape[-1] // block.elements, block.nbytes), "u1")
    for at in block.halves:
        data[..., at : at + 2] = _half(1.0)
    rows = data.reshape(*shape[:-1], -1)
    deviation = float(gguf.dequantize(rows[:1], kind).std())
    for at in block.halves:
        scale = random.uniform(0.8, 1.2, data.shape[:-1]) / (deviation * shape[-1] ** 0.5)
        data[..., at : at + 2] = scale.astype("<f2")[..., None].view("u1")
    return Stored(rows, kind)


def transformer_tensors(
    tensors: Mapping[str, torch.Tensor], kinds: Sequence[str]
) -> dict[str, Stored]:
    """Returns a transformer as ComfyUI-GGUF stores it.

    Vectors are F32 and the layers outside of the blocks BF16. The blocks' matrices take the kinds
    in turn; those that the package does not quantize are random.

    Args:
        tensors: the checkpoint's.
        kinds: names of types.
    """
    found, turn = {}, itertools.cycle(kinds)
    for name, tensor in tensors.items():
        if tensor.dim() == 1:
            kind = "F32"
        else:
            kind = next(turn) if name.startswith("transformer_blocks.") else "BF16"
        if kind.endswith("_K"):
            found[name] = random_tensor(kind, tuple(tensor.shape), len(found))
        else:
            found[name] = quantized(kind, tensor)
    return found


def quantized(kind: str, tensor: torch.Tensor) -> Stored:
    """Returns a tensor in a type that the package quantizes."""
    number = GGMLQuantizationType[kind]
    return Stored(gguf.quantize(tensor.float().numpy(), number), number)


def meant(tensors: Mapping[str, Stored]) -> dict[str, torch.Tensor]:
    """Returns the weights that tensors mean, by the package."""
    return {name: torch.from_numpy(stored.values.copy()) for name, stored in tensors.items()}


def write_gguf(
    path: Path,
    tensors: Mapping[str, Stored],
    *,
    architecture: str = "qwen_image",
    file_type: int | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    big_endian: bool = False,
) -> Path:
    """Writes a file.

    Args:
        path: the file.
        tensors: by name.
        architecture: `general.architecture`.
        file_type: `general.file_type`; None: none.
        shapes: `comfy.gguf.orig_shape` by tensor.
        big_endian: the byte order.
    """
    order = gguf.GGUFEndian.BIG if big_endian else gguf.GGUFEndian.LITTLE
    writer = GGUFWriter(path, architecture, endianess=order)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    if file_type is not None:
        writer.add_file_type(file_type)
    for name, shape in (shapes or {}).items():
        writer.add_array(f"comfy.gguf.orig_shape.{name}", list(shape))
    for name, stored in tensors.items():
        writer.add_tensor(name, stored.data, raw_dtype=stored.kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def encode(
    fields: list[tuple[str, int, bytes]],
    tensors: list[tuple[str, list[int], int, int]],
    data: bytes = b"",
    *,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> bytes:
    """Returns a file in which any value may be wrong.

    Args:
        fields: name, type and value of each.
        tensors: name, sizes in the file's order, type and offset of each.
        data: all tensors' data.
        version: of the format.
        counts: numbers of tensors and fields, where they are not the true ones.
        alignment: of the data.
    """
    head = b"GGUF" + struct.pack("<I", version)
    head += struct.pack("<QQ", *(counts or (len(tensors), len(fields))))
    for name, kind, value in fields:
        head += text(name) + struct.pack("<I", kind) + value
    for name, sizes, kind, offset in tensors:
        head += text(name) + struct.pack("<I", len(sizes)) + struct.pack(f"<{len(sizes)}Q", *sizes)
        head += struct.pack("<IQ", kind, offset)
    return head + bytes(-len(head) % alignment) + data


def text(value: str) -> bytes:
    """Returns a text as a file holds it."""
    encoded = value.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(encoded)) + encoded


def block_size(kind: int) -> tuple[int, int]:
    """Returns elements and bytes of a block."""
    return GGML_QUANT_SIZES[GGMLQuantizationType(kind)]


def _half(value: float) -> np.ndarray[Any, Any]:
    return np.array([value], "<f2").view("u1")
