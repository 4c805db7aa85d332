"""Writes the parts of a diffusers checkpoint as the single files that people have.

Each form is laid out as its publisher does, with `comfy-kitchen`'s arithmetic written out where a
form is quantised; `Written.meant` are the weights that a correct reader finds in the file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]


class Written(NamedTuple):
    tensors: Tensors
    """What the file holds."""
    metadata: dict[str, str]
    meant: Tensors
    """The weights, in float32 where they are quantised."""


Form = Callable[[Tensors], Written]

Quantise = Callable[[Tensor], tuple[Tensor, Tensor, Tensor]]
"""Weight -> values, scale, and the weight that they mean."""


def is_matrix(name: str, tensor: Tensor) -> bool:
    """Returns True for what quantisers quantise: the blocks' matrices."""
    return tensor.dim() == 2 and re.search(r"(_blocks|layers)\.\d+\.", name) is not None


def plain(dtype: torch.dtype, prefix: str = "") -> Form:
    def write(tensors: Tensors) -> Written:
        cast = {name: tensor.to(dtype) for name, tensor in tensors.items()}
        return Written({prefix + name: t for name, t in cast.items()}, {}, cast)

    return write


def unscaled(dtype: torch.dtype) -> Form:
    """Matrices cast to float8, everything else bf16, as the `..._fp8_e4m3fn` files are."""

    def write(tensors: Tensors) -> Written:
        cast = {
            name: t.to(dtype if is_matrix(name, t) else torch.bfloat16)
            for name, t in tensors.items()
        }
        return Written(cast, {}, {name: t.float() for name, t in cast.items()})

    return write


def _quantized(tensors: Tensors, quantise: Quantise) -> tuple[Tensors, dict[str, Tensor], Tensors]:
    """Returns the tensors to store, the scale of each module, and the weights meant."""
    stored, scales, meant = {}, {}, {}
    for name, tensor in tensors.items():
        if is_matrix(name, tensor):
            values, scale, wide = quantise(tensor.float())
            stored[name], scales[name.removesuffix(".weight")], meant[name] = values, scale, wide
        else:
            stored[name] = meant[name] = tensor.to(torch.bfloat16)
    return stored, scales, meant


def to_float8(
    dtype: torch.dtype, rows: bool = False
) -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        largest = weight.abs().amax(1, keepdim=True) if rows else weight.abs().amax()
        scale = largest / torch.finfo(dtype).max
        values = (weight / scale).to(dtype)
        return values, scale, values.float() * scale

    return quantise


def old_scaled(
    dtype: torch.dtype = torch.float8_e4m3fn, *, elements: int = 0, inputs: bool = True
) -> Form:
    """The older marking: `scaled_fp8`, `X.scale_weight`, `X.scale_input`."""

    def write(tensors: Tensors) -> Written:
        stored, scales, meant = _quantized(tensors, to_float8(dtype))
        for module, scale in scales.items():
            stored[f"{module}.scale_weight"] = scale
            if inputs:
                stored[f"{module}.scale_input"] = torch.tensor(1.0)
        stored["scaled_fp8"] = torch.zeros(elements, dtype=dtype)
        return Written(stored, {}, meant)

    return write


def native(
    dtype: torch.dtype = torch.float8_e4m3fn,
    *,
    prefix: str = "",
    in_header: bool = False,
    rows: bool = False,
    full_precision: bool = False,
) -> Form:
    """ComfyUI's present marking: `X.comfy_quant` or header metadata, and `X.weight_scale`."""

    def write(tensors: Tensors) -> Written:
        stored, scales, meant = _quantized(tensors, to_float8(dtype, rows))
        kind = {torch.float8_e4m3fn: "float8_e4m3fn", torch.float8_e5m2: "float8_e5m2"}[dtype]
        mark = {"format": kind} | ({"full_precision_matrix_mult": True} if full_precision else {})
        for module, scale in scales.items():
            stored[f"{module}.weight_scale"] = scale
            stored[f"{module}.input_scale"] = torch.tensor(1.0)
        return _marked(stored, dict.fromkeys(scales, mark), meant, prefix, in_header)

    return write


def int8(*, rotated: bool, group: int = 64) -> Form:
    """`int8_tensorwise` with a scale for each row; ConvRot files are rotated before."""
    four = torch.tensor([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]]) / 2.0
    matrix = torch.ones(1, 1)
    while len(matrix) < group:
        matrix = torch.kron(matrix, four)

    def quantise(weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        grouped = weight.unflatten(1, (-1, group))
        turned = (grouped @ matrix.T).flatten(1) if rotated else weight
        scale = turned.abs().amax(1, keepdim=True) / 127
        values = (turned / scale).round().clamp(-128, 127).to(torch.int8)
        wide = values.float() * scale
        if rotated:
            wide = (wide.unflatten(1, (-1, group)) @ matrix).flatten(1)
        return values, scale, wide

    def write(tensors: Tensors) -> Written:
        stored, scales, meant = _quantized(tensors, quantise)
        mark: dict[str, object] = {"format": "int8_tensorwise"}
        if rotated:
            mark |= {"convrot": True, "convrot_groupsize": group}
        stored |= {f"{module}.weight_scale": scale for module, scale in scales.items()}
        return _marked(stored, dict.fromkeys(scales, mark), meant, "", False)

    return write


def _marked(
    stored: Tensors, marks: Mapping[str, object], meant: Tensors, prefix: str, in_header: bool
) -> Written:
    metadata = {}
    if in_header:
        layers = {prefix + module: mark for module, mark in marks.items()}
        text = json.dumps({"format_version": "1.0", "layers": layers})
        metadata["_quantization_metadata"] = text
    else:
        for module, mark in marks.items():
            data = list(json.dumps(mark).encode())
            stored[f"{module}.comfy_quant"] = torch.tensor(data, dtype=torch.uint8)
    return Written({prefix + name: t for name, t in stored.items()}, metadata, meant)


def component_tensors(checkpoint: Path, component: str) -> Tensors:
    """Returns all tensors of a component of a diffusers folder, in float32."""
    found: Tensors = {}
    for path in sorted((checkpoint / component).glob("*.safetensors")):
        found |= {name: tensor.float() for name, tensor in load_file(path).items()}
    return found


def write_single(path: Path, tensors: Tensors, form: Form) -> Written:
    """Writes a component as a single file in a form."""
    written = form(tensors)
    path.parent.mkdir(parents=True, exist_ok=True)
    contiguous = {name: tensor.contiguous() for name, tensor in written.tensors.items()}
    save_file(contiguous, path, metadata=written.metadata or None)
    return written


def comfy_text_names(tensors: Tensors) -> Tensors:
    """Renames a text encoder as ComfyUI's files have it: `model.layers.0...`, without prefixes."""
    prefix = next(
        p
        for p in ("model.language_model.", "language_model.", "model.")
        if f"{p}embed_tokens.weight" in tensors
    )
    return {
        f"model.{name.removeprefix(prefix)}": tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def wan_names(tensors: Tensors, res_blocks: int) -> Tensors:
    """Renames the VAE's tensors as Wan does; the inverse of diffusers' converter."""
    return {_wan_name(name, res_blocks): tensor for name, tensor in tensors.items()}


def _wan_name(name: str, res_blocks: int) -> str:
    for known, wan in (
        ("post_quant_conv.", "conv2."),
        ("quant_conv.", "conv1."),
        ("coder.conv_in.", "coder.conv1."),
        ("coder.norm_out.", "coder.head.0."),
        ("coder.conv_out.", "coder.head.2."),
        ("mid_block.attentions.0.", "middle.1."),
        ("mid_block.resnets.0.", "middle.0."),
        ("mid_block.resnets.1.", "middle.2."),
        ("encoder.down_blocks.", "encoder.downsamples."),
    ):
        if known == "quant_conv." and name.startswith("post_"):
            continue
        name = name.replace(known, wan)
    if match := re.match(r"decoder\.up_blocks\.(\d+)\.(resnets|upsamplers)\.(\d+)\.", name):
        within = int(match[3]) if match[2] == "resnets" else res_blocks + 1
        index = int(match[1]) * (res_blocks + 2) + within
        name = f"decoder.upsamples.{index}.{name[match.end() :]}"
    for known, wan in (
        ("norm1.", "residual.0."),
        ("conv_shortcut.", "shortcut."),
        ("norm2.", "residual.3."),
        ("conv2.", "residual.6."),
    ):
        if re.search(r"(middle\.[02]|samples\.\d+)\.", name):
            name = name.replace(f".{known}", f".{wan}")
    if re.search(r"(middle\.[02]|samples\.\d+)\.conv1\.", name):
        name = name.replace(".conv1.", ".residual.2.")
    return name
