"""Fuzz target `single`: an untrusted single file of a transformer, text encoder or VAE.

Any file gives tensors in the shapes it states, widened and as float8, with configs whose sizes are
within bounds; or a `ModelError` whose text can be shown.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from inference_server.errors import ModelError
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.vae import VaeConfig
from inference_server.model.weights.checkpoint import FolderCheckpoint
from inference_server.model.weights.published import FOLDER, sized
from inference_server.model.weights.single_file import open_single
from inference_server.model.weights.stored_form import StoredForm
from inference_server.weight_kind import WeightKind

SHARED_MEMORY = Path("/dev/shm")
MAX_MESSAGE_CHARACTERS = 700
PARSERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "transformer": TransformerConfig.from_json,
    "text_encoder": TextConfig.from_json,
    "vae": VaeConfig.from_json,
}
ITEMS = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "F8_E4M3": 1,
    "F8_E5M2": 1,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
    "U64": 8,
    "F8_E8M0": 1,
    "X": 1,
}
DTYPES = (*ITEMS, "F8_E4M3", "F8_E4M3", "I8", "I8", "F32")
Q, K = "transformer_blocks.0.attn.to_q", "model.layers.0.self_attn.k_proj"
MODULES = (
    *(Q, Q, f"diffusion_model.{Q}", f"model.diffusion_model.{Q}", K, "model.layers.0.mlp.up_proj"),
    *("img_in", "txt_in", "proj_out", "transformer_blocks.0.attn.norm_q", "model.embed_tokens"),
    *("decoder.conv1", "decoder.upsamples.3.residual.2", "decoder.upsamples.999.x", "\u202e"),
    *("model.layers.0.input_layernorm", "x" * 900, "decoder.conv_in", "model.layers.0.self_attn"),
)
ENDINGS = (
    *(".weight", ".weight", ".weight", ".bias", ".comfy_quant", ".comfy_quant", ".weight_scale"),
    *(".scale_weight", ".scale_input", ".input_scale", ".weight_scale_2", ".qweight", ""),
)
WHOLE = ("scaled_fp8", "diffusion_model.scaled_fp8", "decoder.norm_out.gamma", "__metadata__", "")
SHAPES: tuple[list[Any], ...] = (
    *([], [1], [4], [4, 16], [4, 16], [4, 256], [4, 1], [1, 4], [2], [0], [0, 4], [4, 4, 1, 1]),
    *([1 << 31], [1 << 62, 4], [-1], [1.5], ["4"], [1] * 70),
)
MARKS = (
    '{"format": "float8_e4m3fn"}',
    '{"format": "float8_e5m2", "full_precision_matrix_mult": true}',
    '{"format": "int8_tensorwise"}',
    '{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 4}',
    '{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 16}',
    '{"format": "int8_tensorwise", "convrot": true}',
    '{"format": "int8_tensorwise", "convrot": 1, "convrot_groupsize": -4}',
    '{"format": "int8_tensorwise", "convrot": true, "convrot_groupsize": 1e300}',
    '{"format": "nvfp4"}',
    '{"format": "\\u202e"}',
    '{"format": null}',
    "[" * 300,
    "{",
    "null",
    "NaN",
    '"int8_tensorwise"',
)


def run(data: bytes) -> None:
    """Reads the bytes as a file of each component."""
    # With more threads, the coverage would depend on their order.
    torch.set_num_threads(1)
    path = SHARED_MEMORY / f"wuliart-fuzz-{os.getpid()}.safetensors"
    path.write_bytes(data)
    try:
        for component in PARSERS:
            try:
                _read(path, component, len(data))
            except ModelError as error:
                message = str(error)
                assert message.isprintable(), ascii(message)
                assert 0 < len(message) <= MAX_MESSAGE_CHARACTERS, len(message)
                message.encode()
    finally:
        path.unlink()


def seeds() -> dict[str, bytes]:
    """Returns a small file of every form, and one of each other component."""
    four = {"dtype": "F8_E4M3", "shape": [4, 16]}
    scale = {"dtype": "F32", "shape": [4, 1]}
    found = {
        f"mark_{n}": _file(
            {
                f"{Q}.weight": four | ({"dtype": "I8"} if "int8" in text else {}),
                f"{Q}.weight_scale": scale,
                f"{Q}.comfy_quant": {"dtype": "U8", "shape": [len(text)]},
            },
            {f"{Q}.comfy_quant": text.encode()},
        )
        for n, text in enumerate(MARKS)
    }
    layers = json.dumps({"layers": {Q: json.loads(MARKS[0])}})
    header = {"__metadata__": {"_quantization_metadata": layers}}
    language = {f"{K}.weight": four, "model.embed_tokens.weight": four}
    return found | {
        "old": _file({f"{Q}.weight": four, f"{Q}.scale_weight": scale, "scaled_fp8": four}, {}),
        "header": _file({f"{Q}.weight": four, f"{Q}.weight_scale": scale} | header, {}),
        "text": _file(language, {}),
        "vae": _file({"decoder.conv1.weight": four, "decoder.norm_out.gamma": {"shape": [4]}}, {}),
        "empty": b"",
    }


def vary(data: bytes, most: int, seed: int, vary_bytes: Callable[[bytes, int], bytes]) -> bytes:
    """Returns a variation of a file, or a new one whose structure is that of the format.

    Arguments as for `variation.vary`.
    """
    chance = random.Random(seed)
    if chance.random() < 0.4:
        return vary_bytes(data, most)
    entries: dict[str, Any] = {}
    contents: dict[str, bytes] = {}
    for _ in range(chance.choice((1, 1, 2, 3, 4, 6))):
        module = chance.choice(MODULES)
        for ending in chance.sample(ENDINGS, k=chance.choice((1, 2, 3))):
            name = module + ending if chance.random() < 0.95 else chance.choice(WHOLE)
            entries[name] = {"dtype": chance.choice(DTYPES), "shape": chance.choice(SHAPES)}
            if ending == ".comfy_quant" and chance.random() < 0.9:
                contents[name] = chance.choice(MARKS).encode()
                entries[name] = {"dtype": "U8", "shape": [len(contents[name])]}
    if chance.random() < 0.3:
        layers = {chance.choice(MODULES): chance.choice((*MARKS, 1, {"format": "float8_e4m3fn"}))}
        text = chance.choice((json.dumps({"layers": layers}), *MARKS))
        entries["__metadata__"] = {"_quantization_metadata": text}
    noise = chance.randbytes(64) if chance.random() < 0.5 else bytes(64)
    return _file(entries, contents, noise, most)[:most]


def _file(
    entries: dict[str, Any], contents: dict[str, bytes], noise: bytes = bytes(64), most: int = 8192
) -> bytes:
    """Encodes a file; what `contents` lacks is filled with noise."""
    header, body = {}, b""
    for name, entry in entries.items():
        if name == "__metadata__":
            header[name] = entry
            continue
        shape, dtype = entry["shape"], entry.get("dtype", "F32")
        size = ITEMS[dtype]
        for length in shape:
            size *= length if isinstance(length, int) and 0 <= length < 1 << 40 else 1
        content = contents.get(name) or (noise * (min(size, most) // 64 + 1))[:size]
        header[name] = {
            "dtype": dtype,
            "shape": shape,
            "data_offsets": [len(body), len(body) + len(content)],
        }
        body += content
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + body


@cache
def _published(component: str) -> dict[str, Any]:
    return FolderCheckpoint(FOLDER, ()).config(component)


def _read(path: Path, component: str, size: int) -> None:
    weights = open_single(path, component)
    matrices = []
    for name in weights:
        shape = weights.shape(name)
        assert torch.Size(shape).numel() <= size
        tensor = weights.read(name)
        assert tuple(tensor.shape) == shape and tensor.is_floating_point()
        assert weights.stored_as(name)
        if len(shape) == 2:
            matrices.append(name)
        if (quantized := weights.read_quantized(name)) is not None:
            assert tuple(quantized.values.shape) == shape
            assert tuple(quantized.scale.shape) == (shape[0], 1)
            assert quantized.scale.isfinite().all()
    form = StoredForm(weights, matrices)
    for kind in (form.kind, *WeightKind):
        for remark in form.remarks(kind, "turbo.safetensors"):
            assert remark.text.isprintable()
    PARSERS[component](sized(component, _published(component), weights))
