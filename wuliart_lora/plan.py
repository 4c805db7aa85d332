"""Checks that a LoRA file fits a model, from the file's header alone.

A file that does not fit is refused before its tensors are read. Either every tensor of a file is
understood, or `LoraError` gives the reason.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wuliart_lora.description import read_title, read_trigger_words
from wuliart_lora.errors import LoraError, shown
from wuliart_lora.factors import INFINITY, LoraAdapter, ModuleFactors, Pair, read_pair
from wuliart_lora.keys import Role, canonicalise
from wuliart_lora.reader import Header, Span, read_header
from wuliart_lora.scale import Stated, check_noted_alpha, read_strength
from wuliart_lora.sidecar import rival_error
from wuliart_lora.threads import in_threads


@dataclass(frozen=True, slots=True)
class LoraPlan:
    """The content of a file by its header, checked in all but the tensors' values."""

    header: Header
    named: Mapping[str, Mapping[Role, str]]
    """Module path -> role -> name of the tensor."""
    ranks: Mapping[str, int]
    scales: Mapping[str, Stated]
    """By module, as written outside of tensors; empty if none is written."""
    noted_alpha: float | None
    """The alpha that one of the `.alpha` tensors must have, None for any."""

    @property
    def rank(self) -> int:
        """The largest rank of all modules."""
        return max(self.ranks.values())

    def read(self, data: memoryview) -> LoraAdapter:
        """Reads the adapter.

        Args:
            data: the whole file, which must not change while the result is in use.

        Raises:
            LoraError: a value makes the adapter unusable.
        """
        tensors = self.header.tensors(data)

        def checked(module: str) -> Pair:
            rank, scale = self.ranks[module], self.scales.get(module)
            return read_pair(tensors, module, self.named[module], rank, scale)

        pairs = dict(zip(self.named, in_threads(checked, self.named), strict=True))
        if self.noted_alpha is not None:
            with_alpha = (m for m in self.named if Role.ALPHA in self.named[m])
            found = ((pairs[module].scale, self.ranks[module]) for module in with_alpha)
            check_noted_alpha(self.noted_alpha, found)
        metadata = self.header.metadata
        return LoraAdapter(
            ModuleFactors(pairs), self.rank, read_title(metadata), read_trigger_words(metadata)
        )


def plan_lora(
    header: Header,
    modules: Mapping[str, tuple[int, int]],
    max_rank: int | None = None,
    config: Mapping[str, Any] | None = None,
    rival: str | None = None,
) -> LoraPlan:
    """Checks a file by its header: names, pairs, shapes, ranks, element types and metadata.

    A file that passes is no larger than an adapter of its rank for all modules.

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
    named = canonicalise(header.spans, modules)
    if not named:
        raise LoraError("the file holds no LoRA weights at all; export the LoRA again")
    ranks = {
        module: _check_pair(header.spans, module, roles, modules[module])
        for module, roles in named.items()
    }
    largest = max(ranks, key=ranks.__getitem__)
    rank = ranks[largest]
    if max_rank is not None and rank > max_rank:
        raise LoraError(
            f"rank {rank} at {largest}, this server holds up to {max_rank}; "
            f"start it with --max-rank {rank}, or reduce the LoRA's rank"
        )
    strength = read_strength(header.metadata, named, ranks, config)
    if rival is not None and not all(
        module in strength.scales or Role.ALPHA in roles for module, roles in named.items()
    ):
        raise rival_error(rival)
    return LoraPlan(header, named, ranks, strength.scales, strength.noted_alpha)


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


def _check_pair(
    spans: Mapping[str, Span], module: str, roles: Mapping[Role, str], features: tuple[int, int]
) -> int:
    """Checks that both factors are there, fit the module, and are floats; returns their rank."""
    for role in (Role.DOWN, Role.UP):
        if role not in roles:
            raise LoraError(
                f"{module} has {shown(next(iter(roles.values())))!r} but no {role} weights; "
                "the file is incomplete: export the LoRA again"
            )
    down, up = spans[roles[Role.DOWN]], spans[roles[Role.UP]]
    inner, outer = features
    if len(down.shape) != 2 or len(up.shape) != 2 or (down.shape[1], up.shape[0]) != features:
        raise LoraError(
            f"the weights of {module} are {list(down.shape)} and {list(up.shape)}, this model "
            f"needs [rank, {inner}] and [{outer}, rank]; use a LoRA made for this model"
        )
    rank = down.shape[0]
    if up.shape[1] != rank:
        raise LoraError(
            f"the two halves of {module} disagree on the rank, {rank} and {up.shape[1]}; "
            "export the LoRA again"
        )
    if rank == 0:
        raise LoraError(f"the weights of {module} have rank 0; export the LoRA again")
    for role, span in ((Role.DOWN, down), (Role.UP, up)):
        if span.dtype not in INFINITY:
            raise LoraError(
                f"{shown(roles[role])!r} has element type {span.dtype}; convert the file to F32, "
                "BF16, F16 or F8_E4M3"
            )
    if (name := roles.get(Role.ALPHA)) is not None and spans[name].shape not in ((), (1,)):
        raise LoraError(
            f"{shown(name)!r} should be a single number and has shape {list(spans[name].shape)}; "
            "export the LoRA again"
        )
    return rank
