"""Every program that writes adapters for Qwen-Image: whole files as each one writes them.

The table is in tests/support/writers.py. What a file means is computed by peft from the file's own
values; only how alpha becomes a scale stands in the table. Real files saved by peft are in
`test_lora_sidecar`, LyCORIS' own deltas in `test_lora_loha` and `test_lora_lokr`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.loha.layer import make_weight
from peft.tuners.lokr.layer import make_kron

from tests.support.lora_files import pack
from tests.support.writer_files import DTYPES, table, write
from tests.support.writers import FEATURES, LAYOUT, TABLE, Form
from wuliart_lora import LoraAdapter, LoraError, parse_lora

DOCUMENT = Path(__file__).parents[2] / "docs" / "adapters.md"
NORMS = {name: site.features for name, site in LAYOUT.norms.items()}
READ = [form for form in TABLE if not form.refused]
REFUSED = [form for form in TABLE if form.refused]


def title(form: Form) -> str:
    return f"{form.writer}: {form.form}"


def read(form: Form) -> LoraAdapter:
    return parse_lora(write(form).data, FEATURES, config=form.sidecar, norms=NORMS)


def by_peft(factors: Mapping[str, torch.Tensor], module: str, scale: float) -> np.ndarray:
    """Returns a module's delta as peft computes it: float32 [out_features, in_features]."""
    values = list(factors.values())
    names = "".join(factors)
    if "hada" in names:
        return make_weight(*values, torch.tensor(scale)).numpy()
    if "lokr" in names:
        whole = {part.removesuffix("_a").removesuffix("_b"): part for part in factors}
        halves = [
            factors[f"{role}_a"] @ factors[f"{role}_b"] if f"{role}_a" in factors else factors[role]
            for role in sorted(whole)
        ]
        return make_kron(*halves, scale).numpy()
    down, up = values
    inner, outer = FEATURES[module]
    config = LoraConfig(r=len(down), lora_alpha=scale * len(down), target_modules=["layer"])
    base = torch.nn.ModuleDict({"layer": torch.nn.Linear(inner, outer)})
    layer = get_peft_model(base, config).base_model.model["layer"]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(down)
        layer.lora_B["default"].weight.copy_(up)
        return layer.get_delta_weight("default").numpy()


def ours(adapter: LoraAdapter, module: str) -> np.ndarray:
    if module in adapter.kronecker:
        return np.kron(*adapter.kronecker[module].widened())
    factors = adapter.factors[module]
    return factors.up @ factors.down


@pytest.mark.parametrize("form", READ, ids=title)
def test_a_writers_file_means_what_the_writer_means(form: Form) -> None:
    adapter, written = read(form), write(form)
    assert {*adapter.factors, *adapter.kronecker} == set(form.modules)
    for module, factors in written.factors.items():
        expected = by_peft(factors, module, form.scale)
        error = np.linalg.norm(ours(adapter, module) - expected) / np.linalg.norm(expected)
        assert error < 1e-5, module
    vectors = {f"{name}.bias": values for name, values in adapter.biases.items()}
    vectors |= {f"{name}.weight": values for name, values in adapter.norms.items()}
    assert vectors.keys() == written.vectors.keys()
    for name, values in written.vectors.items():
        assert np.array_equal(vectors[name], values.numpy()), name
    assert len(adapter.notes) == bool(form.note)
    assert all(note.startswith(form.note) for note in adapter.notes)


@pytest.mark.parametrize("form", REFUSED, ids=title)
def test_a_file_that_cannot_be_used_is_refused_with_the_reason(form: Form) -> None:
    with pytest.raises(LoraError, match=form.refused) as caught:
        read(form)
    # The reason names a tensor of the file, or the module that lacks one.
    assert re.search(r"'[\w.]+'|transformer_blocks", caught.value.reason)


def test_each_row_is_there_once_and_the_document_shows_them() -> None:
    assert not [name for name, count in Counter(map(title, TABLE)).items() if count > 1]
    assert table() in DOCUMENT.read_text(), "put `python -m tests.support.writer_files` there"


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2"])
def test_every_eight_bit_pattern_is_widened_exactly(dtype: str) -> None:
    bits = torch.arange(256, dtype=torch.uint8)
    values = bits.view(DTYPES[dtype]).float().numpy()
    inner, outer = FEATURES["img_in"]
    down = np.resize(bits.numpy()[np.isfinite(values)], (4, inner))
    up = torch.ones(outer, 4).to(DTYPES[dtype]).view(torch.uint8).numpy()
    data = pack(
        {
            "img_in.lora_A.weight": (dtype, down.shape, down.tobytes()),
            "img_in.lora_B.weight": (dtype, up.shape, up.tobytes()),
        }
    )
    assert set(range(256)) - set(down.flat) == set(np.flatnonzero(~np.isfinite(values)))
    factors = parse_lora(data, FEATURES).factors["img_in"]
    assert np.array_equal(factors.down, values[down])
    assert (factors.up == 1).all()
