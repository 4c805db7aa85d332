"""Checks that a LoRA file fits a model, from the file's header alone.

A file that does not fit is refused before its tensors are read. Either every tensor of a file is
understood, or `LoraError` gives the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wuliart_lora.description import read_title, read_trigger_words
from wuliart_lora.errors import LoraError
from wuliart_lora.factors import (
    LoraAdapter,
    ModuleFactors,
    StoredFactors,
    StoredKronecker,
    read_pair,
    read_vector,
)
from wuliart_lora.idle_parts import check_idle
from wuliart_lora.keys import Names, Role, canonicalise
from wuliart_lora.loha import read_loha
from wuliart_lora.lokr import read_lokr
from wuliart_lora.module_shapes import LOHA, Form, check_largest, check_module, check_vector
from wuliart_lora.reader import Header, read_header
from wuliart_lora.scale import NotedAlpha, Stated, check_noted_alpha, read_strength
from wuliart_lora.sidecar import rival_error
from wuliart_lora.tensor_values import Float32Array
from wuliart_lora.threads import in_threads

_NO_NORMS: Final[Mapping[str, int]] = {}


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The content of a file by its header, checked in all but the tensors' values."""

    header: Header
    names: Names
    forms: Mapping[str, Form]
    """By linear layer."""
    scales: Mapping[str, Stated]
    """By module, as written outside of tensors; empty if none is written."""
    noted_alpha: NotedAlpha | None
    """The alpha that one of the `.alpha` tensors must have, None for any."""

    @property
    def rank(self) -> int:
        """The largest rank of all modules; 0 without low-rank factors."""
        return max((form.rank for form in self.forms.values()), default=0)

    def read(self, data: memoryview) -> LoraAdapter:
        """Reads the adapter.

        Args:
            data: the whole file, which must not change while the result is in use.

        Raises:
            LoraError: a value makes the adapter unusable.
        """
        tensors = self.header.tensors(data)
        notes = check_idle(tensors, self.names.idle)
        named = self.names.modules

        def low_rank(module: str) -> StoredFactors:
            form = self.forms[module]
            read = read_loha if form.method == LOHA else read_pair
            return read(tensors, module, named[module], form.factor, self.scales.get(module))

        def kronecker(module: str) -> StoredKronecker:
            rank, stated = self.forms[module].factor, self.scales.get(module)
            return read_lokr(tensors, module, named[module], rank, stated)

        with_rank = [module for module, form in self.forms.items() if form.rank]
        factors = dict(zip(with_rank, in_threads(low_rank, with_rank), strict=True))
        products = {m: kronecker(m) for m, form in self.forms.items() if form.kronecker}
        if self.noted_alpha is not None:
            with_alpha = (m for m in factors if Role.ALPHA in named[m])
            found = ((factors[module].scale, self.forms[module].factor) for module in with_alpha)
            check_noted_alpha(self.noted_alpha, found)

        def vectors(role: Role) -> dict[str, Float32Array]:
            names = {module: roles[role] for module, roles in named.items() if role in roles}
            return {module: read_vector(name, tensors[name]) for module, name in names.items()}

        metadata = self.header.metadata
        title, words = read_title(metadata), read_trigger_words(metadata)
        return LoraAdapter(
            ModuleFactors(factors),
            products,
            biases=vectors(Role.DIFF_B),
            norms=vectors(Role.DIFF),
            rank=self.rank,
            title=title,
            trigger_words=words,
            notes=notes,
        )


def plan_lora(
    header: Header,
    modules: Mapping[str, tuple[int, int]],
    max_rank: int | None = None,
    config: Mapping[str, Any] | None = None,
    rival: str | None = None,
    norms: Mapping[str, int] = _NO_NORMS,
) -> LoraPlan:
    """Checks a file by its header: names, pairs, shapes, ranks, element types and metadata.

    A file that passes is no larger than an adapter of its rank for all modules, apart from the
    factors of a LoKr, which a slot's capacity limits (`slot_contents.check_capacity`), and from
    weights of other parts, which `LoraPlan.read` accepts if they are zero.

    Args:
        header: the file's header.
        modules: path of a linear layer of the model -> (in_features, out_features).
        max_rank: the largest rank accepted; None for any.
        config: the fields of the adapter_config.json that belongs to the file, if one does.
        rival: another file that an adapter_config.json in the folder may belong to
            (`SidecarOwners.rival`). A file that states no alpha is then refused.
        norms: path of a norm that has weights -> features.

    Raises:
        LoraError: the file cannot be used as an adapter of this model. Nothing else is raised.
    """
    names = canonicalise(header.spans, modules, norms)
    named = names.modules
    if not named:
        raise LoraError("the file holds no LoRA weights of the transformer; export the LoRA again")
    forms: dict[str, Form] = {}
    for module, roles in named.items():
        if module in norms:
            check_vector(header.spans, module, roles[Role.DIFF], norms[module])
        else:
            forms[module] = check_module(header.spans, module, roles, modules[module])
    check_largest(forms, max_rank)
    strength = read_strength(header.metadata, named, forms, config)
    if rival is not None and not all(
        module in strength.scales or Role.ALPHA in named[module]
        for module, form in forms.items()
        if form.rank or form.kronecker
    ):
        raise rival_error(rival)
    return LoraPlan(header, names, forms, strength.scales, strength.noted_alpha)


def parse_lora(
    data: bytes | bytearray | memoryview,
    modules: Mapping[str, tuple[int, int]],
    max_rank: int | None = None,
    config: Mapping[str, Any] | None = None,
    norms: Mapping[str, int] = _NO_NORMS,
) -> LoraAdapter:
    """Reads the bytes of a .safetensors file: `plan_lora` and `LoraPlan.read` in one.

    Raises:
        LoraError: the file cannot be used. Nothing else is raised, whatever the bytes.
    """
    view = memoryview(data).cast("B").toreadonly()
    header = read_header(view, len(view))
    return plan_lora(header, modules, max_rank, config, norms=norms).read(view)
