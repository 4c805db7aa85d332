"""What an adapter's slot holds: the sites, the products, and where they lie; and if they fit."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Final

from wuliart_lora import LoraError, LoraPlan
from wuliart_lora.keys import Role
from wuliart_lora.slot_layout import KroneckerShapes, LowRankSite, Packing, SegmentLayout

_MOST_RANK: Final = 1024
"""Largest `--max-rank` that is advised."""


@dataclass(frozen=True, slots=True)
class SlotContents:
    """What an adapter's slot holds, as the layout names it."""

    rank: int
    """That low-rank sites are packed for; 0 without any."""
    sites: tuple[str, ...]
    """All but the Kronecker products, in the layout's order."""
    kronecker: KroneckerShapes
    packing: Packing


def contents_of(
    layout: SegmentLayout,
    rank: int,
    *,
    factors: Collection[str],
    kronecker: KroneckerShapes,
    vectors: Collection[str],
) -> SlotContents:
    """Returns what a slot holds of an adapter.

    Args:
        layout: of the slot.
        rank: the largest of the low-rank factors.
        factors: modules with low-rank factors.
        kronecker: modules with Kronecker products. Those of timestep-only layers become tables.
        vectors: modules whose bias, or norms whose weight, is added to.
    """
    low_rank, added, changed = set(factors), set(vectors), {*factors, *kronecker, *vectors}
    sites = (
        *(s.name for s in layout.low_rank_sites.values() if not low_rank.isdisjoint(s.modules)),
        *(s.name for s in layout.delta_sites.values() if s.module in changed),
        *(s.name for s in layout.vector_sites.values() if not added.isdisjoint(s.modules)),
    )
    products = {
        module: first
        for module, first in kronecker.items()
        if isinstance(layout.modules[module][0], LowRankSite)
    }
    return SlotContents(rank, sites, products, layout.packing(rank, sites, products))


def check_capacity(plan: LoraPlan, layout: SegmentLayout) -> None:
    """Checks that an adapter fits a slot, before its data is read.

    Low-rank factors of at most the layout's rank always do. The factors of Kronecker products may
    be of any size.

    Raises:
        LoraError: it needs more than a slot; with the `--max-rank` of a server that can hold it.
    """
    named = plan.names.modules
    kronecker = {m: form.kronecker for m, form in plan.forms.items() if form.kronecker}
    needed = contents_of(
        layout,
        plan.rank,
        factors=[module for module, form in plan.forms.items() if form.rank],
        kronecker=kronecker,
        vectors=[m for m, roles in named.items() if Role.DIFF_B in roles or Role.DIFF in roles],
    ).packing.nbytes
    if needed <= layout.slot_bytes:
        return
    ranks = range(layout.parameters.max_rank + 1, _MOST_RANK + 1)

    def slot_bytes(rank: int) -> int:
        return SegmentLayout(replace(layout.parameters, max_rank=rank)).slot_bytes

    enough = bisect_left(ranks, needed, key=slot_bytes)
    advice = f"start it with --max-rank {ranks[enough]}, or " if enough < len(ranks) else ""
    raise LoraError(
        f"its factors take {needed:,} bytes and a slot of this server holds {layout.slot_bytes:,}; "
        f"{advice}train the LoKr with a factor that makes its two matrices more alike in size"
    )
