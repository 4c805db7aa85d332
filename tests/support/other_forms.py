"""Makes LoKr files and files with differences of biases and norms, and says what they mean.

The meaning is computed from the values alone, in float64, with numpy's Kronecker product.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import isqrt

import numpy as np

from tests.support.lora_files import Array, RawTensor, encode, module_features
from wuliart_lora.slot_layout import SegmentLayout


@dataclass
class Changes:
    """A file's tensors, and what they add to the parameters of the stock transformer."""

    tensors: dict[str, RawTensor] = field(default_factory=dict)
    added: dict[str, Array] = field(default_factory=dict)
    """By the parameter's name; float64."""

    def __or__(self, other: Changes) -> Changes:
        """Both in one file."""
        return Changes(self.tensors | other.tensors, self.added | other.added)


def halves(size: int) -> tuple[int, int]:
    """Returns the two factors of a size that are most alike, the smaller first.

    What the `factorization` of LyCORIS, ai-toolkit and peft returns for factor -1.
    """
    small = next(n for n in range(isqrt(size), 0, -1) if size % n == 0)
    return small, size // small


def written_path(prefix: str, module: str) -> str:
    """Returns a module's path in a file: `{m}` is its path, `{f}` the same underscored."""
    return prefix.format(m=module, f=module.replace(".", "_"))


def lokr(
    layout: SegmentLayout,
    modules: Iterable[str],
    *,
    prefix: str = "diffusion_model.{m}",
    first_rank: int = 0,
    second_rank: int = 0,
    alpha: float | None = None,
    alpha_dtype: str = "F32",
    scale: float = 1.0,
    dtype: str = "F32",
    size: float = 0.5,
    seed: int = 0,
) -> Changes:
    """Returns a LoKr.

    Args:
        layout: of the model.
        modules: its modules.
        prefix: see `written_path`.
        first_rank: rank of w1; 0: whole.
        second_rank: rank of w2; 0: whole.
        alpha: what `.alpha` holds; None: there is none.
        alpha_dtype: its element type.
        scale: what the file means by it.
        dtype: element type of the factors.
        size: standard deviation of the factors.
        seed: of the random values.
    """
    random, features, changes = np.random.default_rng(seed), module_features(layout), Changes()

    def factor(path: str, name: str, rows: int, columns: int, rank: int) -> Array:
        shapes = [(rows, rank), (rank, columns)] if rank else [(rows, columns)]
        values = [size * random.standard_normal(shape) for shape in shapes]
        product = np.eye(rows)
        for half, one in zip(("_a", "_b") if rank else ("",), values, strict=True):
            stored = encode(one.astype(np.float32), dtype)
            changes.tensors[f"{path}.{name}{half}"] = (dtype, one.shape, stored)
            product = product @ _as_stored(stored, dtype, one.shape)
        return product

    for module in modules:
        inner, outer = features[module]
        (b, d), (a, c) = halves(inner), halves(outer)
        path = written_path(prefix, module)
        w1 = factor(path, "lokr_w1", a, b, first_rank)
        w2 = factor(path, "lokr_w2", c, d, second_rank)
        if alpha is not None:
            number = encode(np.array(alpha), alpha_dtype)
            changes.tensors[f"{path}.alpha"] = (alpha_dtype, (), number)
        changes.added[f"{module}.weight"] = scale * np.kron(w1, w2)
    return changes


def differences(
    layout: SegmentLayout,
    modules: Iterable[str],
    norms: Iterable[str],
    *,
    prefix: str = "diffusion_model.{m}",
    dtype: str = "F32",
    size: float = 0.5,
    seed: int = 0,
) -> Changes:
    """Returns differences of the modules' biases and of the norms' weights; see `lokr`."""
    random, changes = np.random.default_rng(seed), Changes()
    biases = {module: module_features(layout)[module][1] for module in modules}
    weights = {norm: layout.norms[norm].features for norm in norms}
    for role, parameter, sizes in (("diff_b", "bias", biases), ("diff", "weight", weights)):
        for module, features in sizes.items():
            data = encode((size * random.standard_normal(features)).astype(np.float32), dtype)
            changes.tensors[f"{written_path(prefix, module)}.{role}"] = (dtype, (features,), data)
            changes.added[f"{module}.{parameter}"] = _as_stored(data, dtype, (features,))
    return changes


def relative(ours: Mapping[str, Array], theirs: Mapping[str, Array]) -> float:
    """Returns the largest relative difference; the two have the same names."""
    assert ours.keys() == theirs.keys()
    return max(
        float(np.linalg.norm(ours[name] - theirs[name]) / np.linalg.norm(theirs[name]))
        for name in theirs
    )


def _as_stored(data: bytes, dtype: str, shape: tuple[int, ...]) -> Array:
    if dtype == "BF16":
        wide = np.frombuffer(data, "<u2").astype(np.uint32) << 16
        return wide.view(np.float32).reshape(shape).astype(np.float64)
    kinds = {"F32": "<f4", "F16": "<f2"}
    return np.frombuffer(data, kinds[dtype]).reshape(shape).astype(np.float64)
