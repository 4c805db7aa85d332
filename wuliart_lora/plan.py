"""Checks that a LoRA file fits a model, from the file's header alone.

A file that does not fit is refused before its tensors are read. Either every tensor of a file is
understood, or `LoraError` gives the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wuliart_lora.description import read_title, read_trigger_words
from wuliart_lora.errors import LoraError
from wuliart_lora.factors import LoraAdapter, ModuleFactors, StoredFactors, read_pair
from wuliart_lora.idle_parts import check_idle
from wuliart_lora.keys import Names, Role, canonicalise, is_loha
from wuliart_lora.loha import read_loha
from wuliart_lora.module_shapes import Ranks, check_largest, check_module
from wuliart_lora.reader import Header, read_header
from wuliart_lora.scale import Stated, check_noted_alpha, read_strength
from wuliart_lora.sidecar import rival_error
from wuliart_lora.threads import in_threads


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The content of a file by its header, checked in all but the tensors' values."""

    header: Header
    names: Names
    ranks: Mapping[str, Ranks]
    """By module."""
    scales: Mapping[str, Stated]
    """By module, as written outside of tensors; empty if none is written."""
    noted_alpha: float | None
    """The alpha that one of the `.alpha` tensors must have, None for any."""

    @property
    def rank(self) -> int:
        """The largest rank of all modules."""
        return max(ranks.product for ranks in self.ranks.values())

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

        def checked(module: str) -> StoredFactors:
            roles, rank = named[module], self.ranks[module].factor
            read = read_loha if is_loha(roles) else read_pair
            return read(tensors, module, roles, rank, self.scales.get(module))

        stored = dict(zip(named, in_threads(checked, named), strict=True))
        if self.noted_alpha is not None:
            with_alpha = (m for m in named if Role.ALPHA in named[m])
            found = ((stored[module].scale, self.ranks[module].factor) for module in with_alpha)
            check_noted_alpha(self.noted_alpha, found)
        metadata = self.header.metadata
        title, words = read_title(metadata), read_trigger_words(metadata)
        return LoraAdapter(ModuleFactors(stored), self.rank, title, words, notes)


def plan_lora(
    header: Header,
    modules: Mapping[str, tuple[int, int]],
    max_rank: int | None = None,
    config: Mapping[str, Any] | None = None,
    rival: str | None = None,
) -> LoraPlan:
    """Checks a file by its header: names, pairs, shapes, ranks, element types and metadata.

    A file that passes is no larger than an adapter of its rank for all modules, apart from weights
    of other parts, which `LoraPlan.read` accepts if they are zero.

    Args:
        header: the file's header.
        modules: module path of the model -> (in_features, out_features).
        max_rank: the largest rank accepted; None for any.
        config: the fields of the adapter_config.json that belongs to the file, if one does.
        rival: another file that an adapter_config.json in the folder may belong to
            (`SidecarOwners.rival`). A file that states no alpha is then refused.

    Raises:
        LoraError: the file cannot be used as an adapter of this model. Nothing else is raised.
    """
    names = canonicalise(header.spans, modules)
    named = names.modules
    if not named:
        raise LoraError("the file holds no LoRA weights of the transformer; export the LoRA again")
    ranks = {
        module: check_module(header.spans, module, roles, modules[module])
        for module, roles in named.items()
    }
    check_largest(ranks, max_rank)
    factor_ranks = {module: rank.factor for module, rank in ranks.items()}
    strength = read_strength(header.metadata, named, factor_ranks, config)
    if rival is not None and not all(
        module in strength.scales or Role.ALPHA in roles for module, roles in named.items()
    ):
        raise rival_error(rival)
    return LoraPlan(header, names, ranks, strength.scales, strength.noted_alpha)


def parse_lora(
    data: bytes | bytearray | memoryview,
    modules: Mapping[str, tuple[int, int]],
    max_rank: int | None = None,
    config: Mapping[str, Any] | None = None,
) -> LoraAdapter:
    """Reads the bytes of a .safetensors file: `plan_lora` and `LoraPlan.read` in one.

    Raises:
        LoraError: the file cannot be used. Nothing else is raised, whatever the bytes.
    """
    view = memoryview(data).cast("B").toreadonly()
    return plan_lora(read_header(view, len(view)), modules, max_rank, config).read(view)
