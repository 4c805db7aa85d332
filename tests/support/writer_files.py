"""Makes the files of the table in `writers`, and shows the table as Markdown.

python -m tests.support.writer_files
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import torch

from tests.support.lora_files import RawTensor, pack
from tests.support.other_forms import halves, written_path
from tests.support.writers import FEATURES, HADA_RANK, KRON_RANK, LAYOUT, NORM, TABLE, Form, Q

DTYPES: Final[Mapping[str, torch.dtype]] = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
}


@dataclass
class Written:
    """A file, and the values that it holds."""

    data: bytes
    factors: dict[str, dict[str, torch.Tensor]]
    """By module and role (what follows the last point but for `.weight`): float32."""
    vectors: dict[str, torch.Tensor]
    """Differences, by the parameter's name."""


def write(form: Form) -> Written:
    """Makes a form's file."""
    random = torch.Generator().manual_seed(0)
    tensors: dict[str, RawTensor] = {}
    written = Written(b"", {}, {})

    def put(name: str, values: torch.Tensor, dtype: str) -> torch.Tensor:
        stored = values.to(DTYPES[dtype]).contiguous()
        raw = stored.reshape(-1).view(torch.uint8).numpy().tobytes()
        tensors[name] = (dtype, tuple(values.shape), raw)
        return stored.float()

    for number, module in enumerate(form.modules):
        path = written_path(form.path, module)
        rank = form.ranks[number % len(form.ranks)]
        roles = written.factors.setdefault(module, {})
        for part in form.parts:
            values = 0.5 * torch.randn(_shape(part, module, rank), generator=random)
            roles[part] = put(path + part, values * math.sqrt(form.folded), form.dtype)
        if form.alpha is not None:
            put(f"{path}.alpha", torch.tensor(float(form.alpha)), form.alpha_dtype)
        if form.biases:
            vector = torch.randn(FEATURES[module][1], generator=random)
            written.vectors[f"{module}.bias"] = put(f"{path}.diff_b", vector, form.dtype)
    if form.biases:
        vector = torch.randn(LAYOUT.norms[NORM].features, generator=random)
        name = f"{written_path(form.path, NORM)}.diff"
        written.vectors[f"{NORM}.weight"] = put(name, vector, form.dtype)
    for name, (value, shape) in form.more.items():
        put(name, torch.full(shape, value), form.dtype)
    written.data = pack(tensors, form.metadata)
    if form.metadata is None:
        header = int.from_bytes(written.data[:8], "little")
        raw = b'{"__metadata__":null,' + written.data[9 : 8 + header]
        written.data = len(raw).to_bytes(8, "little") + raw + written.data[8 + header :]
    return written


def _shape(part: str, module: str, rank: int) -> tuple[int, int]:
    inner, outer = FEATURES[module]
    (b, d), (a, c) = halves(inner), halves(outer)
    if ".lora" in part or "_lora" in part:
        return (rank, inner) if "down" in part or "_A" in part else (outer, rank)
    if ".hada" in part:
        return (outer, HADA_RANK) if part.endswith("a") else (HADA_RANK, inner)
    rows, columns = (a, b) if "w1" in part else (c, d)
    if part.endswith("_a"):
        return rows, KRON_RANK
    return (KRON_RANK, columns) if part.endswith("_b") else (rows, columns)


HEAD: Final = "| writer | file | keys of a module M | alpha | |\n|---|---|---|---|---|\n"

_PAIRS: Final = (("_A.", "_B."), ("down.", "up."), ("_a", "_b"))


def table() -> str:
    """Returns the table as Markdown."""
    rows = ((f.writer, f.form, _keys(f), _alpha(f), _result(f)) for f in TABLE)
    return HEAD + "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _keys(form: Form) -> str:
    more = tuple("." + name.partition(written_path(form.path, Q) + ".")[2] for name in form.more)
    parts = [*form.parts, *(part for part in more if part != ".")]
    if form.biases:
        parts += [".diff_b", ".diff"]
    merged: list[str] = []
    for part in parts:
        for one, other in _PAIRS:
            if merged and merged[-1].replace(one, other) == part and one in merged[-1]:
                merged[-1] = part.replace(other, f"{one.rstrip('.')}/{other.lstrip('_')}")
                break
        else:
            merged.append(part)
    path = form.path.replace("{m}", "M").replace("{f}", "M")
    first, *others = merged
    return ", ".join(f"`{each}`" for each in (path + first, *others))


def _alpha(form: Form) -> str:
    if form.alpha is None:
        return form.alpha_elsewhere or "none"
    dtype = "" if form.alpha_dtype == "F32" else f" ({form.alpha_dtype})"
    return f"`.alpha` {form.alpha:.10g}{dtype}"


def _result(form: Form) -> str:
    if form.refused:
        return f"refused: {form.refused}"
    note = f"; {form.note}, which are zero" if form.note else ""
    return f"× {form.scale:g}{note}"


if __name__ == "__main__":
    print(table())
