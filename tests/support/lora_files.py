"""Makes valid LoRA files for tests, in every key convention found in public files.

The container is written here, so that tests do not depend on a library. `truth` computes what a
file means in float32, independently of the code under test. Files that must be refused are in
bad_lora_files.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from wuliart_lora.slot_layout import LowRankSite, SegmentLayout

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Convention:
    """How a trainer names its tensors: `{m}` is the module path, `{f}` the same underscored."""

    down: str
    up: str
    alpha: str | None = None


def _ab(prefix: str, *, alpha: bool = False, default: str = "") -> Convention:
    return Convention(
        f"{prefix}{{m}}.lora_A{default}.weight",
        f"{prefix}{{m}}.lora_B{default}.weight",
        f"{prefix}{{m}}.alpha" if alpha else None,
    )


def _down_up(prefix: str, path: str = "{m}", middle: str = "lora_") -> Convention:
    return Convention(
        f"{prefix}{path}.{middle}down.weight",
        f"{prefix}{path}.{middle}up.weight",
        f"{prefix}{path}.alpha",
    )


CONVENTIONS: Mapping[str, Convention] = {
    "peft": _ab("transformer."),
    "peft_alpha": _ab("transformer.", alpha=True),
    "diffusion_model": _ab("diffusion_model."),
    "diffusion_model_alpha": _ab("diffusion_model.", alpha=True),
    "diffusion_model_down_up": _down_up("diffusion_model."),
    "diffusion_model_transformer": _ab("diffusion_model.transformer."),
    "bare": _ab(""),
    "bare_alpha": _down_up(""),
    "bare_default": _ab("", default=".default"),
    "peft_default": _ab("transformer.", default=".default"),
    "base_model": _ab("base_model.model."),
    "base_model_default": _ab("base_model.model.", default=".default"),
    "base_model_transformer": _ab("base_model.model.transformer."),
    "model_diffusion_model": _ab("model.diffusion_model."),
    "kohya": _down_up("lora_unet_", "{f}"),
    "kohya_transformer": _down_up("lora_transformer_", "{f}"),
    "lycoris": _down_up("lycoris_", "{f}"),
    "old_diffusers": Convention(
        "transformer.{m}.lora.down.weight", "transformer.{m}.lora.up.weight"
    ),
}
"""Those with an alpha tensor write one; with `alpha` given, the others write PEFT's metadata."""


def module_features(layout: SegmentLayout) -> dict[str, tuple[int, int]]:
    """Returns module path -> (in_features, out_features) of every module in the layout."""
    width = layout.parameters.width
    return {
        module: (site.in_features if isinstance(site, LowRankSite) else width, site.out_features)
        for module, (site, _) in layout.modules.items()
    }


def encode(values: Array, dtype: str) -> bytes:
    """Encodes float32 values as F32, F16, BF16, F64, I32 or I64, little endian."""
    if dtype == "BF16":
        bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()
    kinds = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "I32": "<i4", "I64": "<i8"}
    return np.asarray(values).astype(kinds[dtype]).tobytes()


def decode(data: bytes, dtype: str, shape: Sequence[int]) -> Array:
    """Decodes the bytes of `encode` to float32 values."""
    if dtype == "BF16":
        bits = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return bits.view(np.float32).reshape(shape)
    kinds = {"F32": "<f4", "F16": "<f2"}
    return np.frombuffer(data, kinds[dtype]).astype(np.float32).reshape(shape)


RawTensor = tuple[str, Sequence[int], bytes]
"""dtype, shape, bytes"""


def pack(
    tensors: Mapping[str, RawTensor], metadata: Mapping[str, str] | None = None, pad: int = 0
) -> bytes:
    """Returns a safetensors file; `pad` extends its header with spaces to that many bytes."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at = 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {
            "dtype": dtype,
            "shape": list(shape),
            "data_offsets": [at, at + len(data)],
        }
        at += len(data)
    raw = json.dumps(header).encode()
    return pack_raw(raw.ljust(pad), b"".join(data for _, _, data in tensors.values()))


def pack_raw(header: bytes, data: bytes = b"", length: int | None = None) -> bytes:
    """Returns a file of this header and data, which announces a header of `length` bytes."""
    return (len(header) if length is None else length).to_bytes(8, "little") + header + data


def lora_tensors(
    layout: SegmentLayout,
    *,
    rank: int | Mapping[str, int] = 4,
    modules: Sequence[str] | None = None,
    convention: str = "peft",
    alpha: float | None = None,
    seed: int = 0,
    scale: float = 0.05,
    dtype: str = "F32",
) -> dict[str, RawTensor]:
    """Returns name -> tensor of a valid file; `rank` may be given per module."""
    names = CONVENTIONS[convention]
    features = module_features(layout)
    random = np.random.default_rng(seed)
    tensors: dict[str, RawTensor] = {}
    for module in features if modules is None else modules:
        inner, outer = features[module]
        r = rank if isinstance(rank, int) else rank[module]
        paths = {"m": module, "f": module.replace(".", "_")}
        for name, shape in ((names.down, (r, inner)), (names.up, (outer, r))):
            values = random.standard_normal(shape, np.float32) * np.float32(scale)
            tensors[name.format(**paths)] = (dtype, shape, encode(values, dtype))
        if names.alpha is not None:
            tensors[names.alpha.format(**paths)] = (
                "F32",
                (),
                encode(np.array(_alpha(alpha, r)), "F32"),
            )
    return tensors


def _alpha(alpha: float | None, rank: int) -> float:
    return rank / 2 if alpha is None else alpha


def make_lora(
    layout: SegmentLayout,
    *,
    rank: int | Mapping[str, int] = 4,
    modules: Sequence[str] | None = None,
    convention: str = "peft",
    alpha: float | None = None,
    seed: int = 0,
    scale: float = 0.05,
    metadata: Mapping[str, str] | None = None,
    dtype: str = "F32",
) -> bytes:
    """Returns the bytes of a valid LoRA file over `modules` (default: all of the layout's).

    `alpha` is written where the convention keeps it; conventions with alpha tensors default to
    rank / 2, the others to none, which means a scale of 1. `scale` is the standard deviation of
    the factors.
    """
    tensors = lora_tensors(
        layout,
        rank=rank,
        modules=modules,
        convention=convention,
        alpha=alpha,
        seed=seed,
        scale=scale,
        dtype=dtype,
    )
    notes = dict(metadata or {})
    if alpha is not None and CONVENTIONS[convention].alpha is None:
        if not isinstance(rank, int):
            raise ValueError("alpha in the metadata needs one rank for all modules")
        targets = list(module_features(layout) if modules is None else modules)
        notes["lora_adapter_metadata"] = peft_metadata(
            r=rank, lora_alpha=alpha, target_modules=targets
        )
    return pack(tensors, notes)


def peft_metadata(prefix: str = "transformer.", **fields: object) -> str:
    """Returns the text that diffusers' save_lora_weights writes as `lora_adapter_metadata`."""
    return json.dumps({f"{prefix}{field}": value for field, value in fields.items()}, indent=2)


def truth(layout: SegmentLayout, **choices: Any) -> dict[str, Array]:
    """Returns by module what `make_lora`'s file with these arguments adds to its weight.

    Float32 [out_features, in_features]: scale * up @ down, of the values as stored in `dtype`.
    """
    choices.pop("metadata", None)
    tensors = lora_tensors(layout, **choices)
    names, alpha = CONVENTIONS[choices.get("convention", "peft")], choices.get("alpha")
    deltas: dict[str, Array] = {}
    for module in choices.get("modules") or module_features(layout):
        paths = {"m": module, "f": module.replace(".", "_")}
        down, up = (tensors[name.format(**paths)] for name in (names.down, names.up))
        r = down[1][0]
        written = names.alpha is not None or alpha is not None
        product = decode(up[2], up[0], up[1]) @ decode(down[2], down[0], down[1])
        deltas[module] = np.float32(_alpha(alpha, r) / r if written else 1) * product
    return deltas
