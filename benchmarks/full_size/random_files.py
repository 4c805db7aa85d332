"""Single checkpoint files of Qwen-Image's real shapes with random content, as ComfyUI's users have.

Everything is written tensor by tensor from one pool of random numbers, so a file of 20 GB takes
minutes and little memory. The content is random, not zeros: quantising and summing it takes the
time that real weights take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import torch
from diffusers import AutoencoderKLQwenImage, QwenImageTransformer2DModel
from torch import Tensor
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

from benchmarks.full_size import random_gguf
from benchmarks.full_size.random_gguf import write_gguf
from benchmarks.full_size.random_model import QWEN_VL

FORMS: Final = ("bf16", "scaled-fp8", "convrot", *random_gguf.FORMS)
POOL: Final = 1 << 25
"""Numbers in the pool of each element type."""
SPREAD: Final = 0.02
"""Standard deviation of the weights."""
_MATRIX: Final = re.compile(r"(_blocks|layers)\.\d+\..*(?<!norm)\.weight$")


class _Entry(NamedTuple):
    kind: str
    """Element type in the header."""
    shape: tuple[int, ...]
    value: float | None = None
    """Of a tensor of one number; None: random."""
    text: bytes = b""
    """Of a tensor of bytes."""


class _Pool:
    """Random bytes of each element type."""

    def __init__(self) -> None:
        generator = torch.Generator().manual_seed(0)
        numbers = torch.randn(POOL, generator=generator)
        self._bytes = {
            "BF16": _raw((numbers * SPREAD).to(torch.bfloat16)),
            "F8_E4M3": _raw((numbers * 80).clamp(-448, 448).to(torch.float8_e4m3fn)),
            "I8": _raw((numbers * 32).round().clamp(-127, 127).to(torch.int8)),
            "F32": _raw(numbers.abs() * 1e-5 + 1e-4),
        }

    def write(self, file: BinaryIO, kind: str, nbytes: int) -> None:
        data = self._bytes[kind]
        while nbytes:
            file.write(part := data[: min(nbytes, len(data))])
            nbytes -= len(part)


def _raw(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().view(torch.uint8).numpy().data)


def _entries(shapes: Mapping[str, tuple[int, ...]], form: str) -> Iterator[tuple[str, _Entry]]:
    for name, shape in shapes.items():
        if form == "bf16" or not _MATRIX.search(name) or len(shape) != 2:
            yield name, _Entry("BF16", shape)
            continue
        module = name.removesuffix(".weight")
        if form == "scaled-fp8":
            yield name, _Entry("F8_E4M3", shape)
            yield f"{module}.scale_weight", _Entry("F32", (), SPREAD / 80)
            yield f"{module}.scale_input", _Entry("F32", (), 1.0)
        else:
            mark = {"format": "int8_tensorwise", "convrot": True, "convrot_groupsize": 256}
            text = json.dumps(mark).encode()
            yield name, _Entry("I8", shape)
            yield f"{module}.weight_scale", _Entry("F32", (shape[0], 1))
            yield f"{module}.comfy_quant", _Entry("U8", (len(text),), text=text)
    if form == "scaled-fp8":
        yield "scaled_fp8", _Entry("F8_E4M3", (0,))


_SIZES: Final = {"BF16": 2, "F32": 4, "F8_E4M3": 1, "I8": 1, "U8": 1}


def write_file(path: Path, shapes: Mapping[str, tuple[int, ...]], form: str) -> Path:
    """Writes a component as a single safetensors file in one of FORMS that is not GGUF."""
    entries = dict(_entries(shapes, form))
    header, offset = {}, 0
    for name, entry in entries.items():
        end = offset + _SIZES[entry.kind] * torch.Size(entry.shape).numel()
        header[name] = {"dtype": entry.kind, "shape": entry.shape, "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    pool = _Pool()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries.values():
            if entry.text:
                file.write(entry.text)
            elif entry.value is not None:
                file.write(bytes(_raw(torch.tensor([entry.value]))))
            else:
                size = _SIZES[entry.kind] * torch.Size(entry.shape).numel()
                pool.write(file, entry.kind, size)
    return path


def write_models(folder: Path, form: str, blocks: int, layers: int) -> tuple[Path, Path, Path]:
    """Writes transformer, text encoder and VAE.

    Args:
        folder: for the files.
        form: of the transformer and the text encoder; the VAE is bf16.
        blocks: of the transformer; 60 are all.
        layers: of the text encoder; 28 are all.
    """
    with torch.device("meta"):
        transformer: Any = QwenImageTransformer2DModel(num_layers=blocks)
        vae: Any = AutoencoderKLQwenImage()
        config = Qwen2_5_VLConfig(text_config=QWEN_VL | {"num_hidden_layers": layers})
        text: Any = Qwen2_5_VLForConditionalGeneration(config)
    language = {
        f"model.{name.removeprefix('model.language_model.')}": tensor
        for name, tensor in text.state_dict().items()
        if name.startswith("model.language_model.")
    }
    shapes, texts = _shapes(transformer.state_dict()), _shapes(language)
    decoder = write_file(folder / "vae.safetensors", _shapes(vae.state_dict()), "bf16")
    if form in random_gguf.FORMS:
        texts = random_gguf.llama_names(texts)
        return (
            write_gguf(folder / "qwen_image.gguf", shapes, form, "qwen_image"),
            write_gguf(folder / "qwen_2.5_vl_7b.gguf", texts, form, "qwen2vl"),
            decoder,
        )
    return (
        write_file(folder / "qwen_image.safetensors", shapes, form),
        write_file(folder / "qwen_2.5_vl_7b.safetensors", texts, form),
        decoder,
    )


def _shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in state.items()}
