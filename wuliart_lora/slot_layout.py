"""The layout of one adapter slot: which tensor of an adapter lies at which byte.

Server and manager derive the same table from the same `LayoutParameters`, and compare its hash
when the manager attaches.

A slot holds four kinds of regions:

* A `LowRankSite` is one matrix product of the model. It holds `down`, the A matrices of the
  modules fused into that product stacked to `[parts * r, in_features]`, and `up`, their B
  matrices transposed to `[parts, r, out_features]`, so that for part p

      y_p = W_p x + weight * (x @ down_p.T) @ up_p

  `r` is the adapter's packed rank, at most `max_rank`. alpha / rank is folded into `up`.
* A module of such a site may have a Kronecker product instead: w1 `[a, b]`, with the scale folded
  in, and w2 `[out_features / a, in_features / b]`. Its change of W, the Kronecker product of the
  two, is never stored. `(a, b)` is the writer's choice and part of what it commits.
* A `DeltaSite` is a linear layer that reads the timestep alone, so its outputs are a table with
  one row per timestep. It holds what the adapter adds to that table: `[rows, out_features]`.
* A `VectorSite` is a bias or a norm's weight. It holds what the adapter adds: `[parts * features]`.

The regions of an adapter lie densely, one after another, so that a small adapter is few bytes to
write, to hash and to copy. A slot can hold all sites at `max_rank`, with all vectors. Kronecker
products have no room of their own: they take that of low-rank factors, which need more.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from wuliart_lora.slot_sites import (
    DTYPE_BYTES,
    DeltaSite,
    LayoutParameters,
    LowRankSite,
    VectorSite,
    delta_sites,
    low_rank_sites,
    vector_sites,
)

__all__ = [
    "NO_PRODUCTS",
    "REGION_ALIGNMENT",
    "SLOT_ALIGNMENT",
    "DeltaSite",
    "KroneckerShapes",
    "LayoutParameters",
    "LowRankSite",
    "Packing",
    "SegmentLayout",
    "VectorSite",
]

REGION_ALIGNMENT: Final = 256
"""Bytes; the alignment that CUDA's vectorised loads and cuBLAS prefer."""

SLOT_ALIGNMENT: Final = 2 << 20
"""Bytes; the granularity of CUDA's physical allocations."""

KroneckerShapes = Mapping[str, tuple[int, int]]
"""Module path -> rows and columns of w1."""

NO_PRODUCTS: Final[KroneckerShapes] = {}


@dataclass(frozen=True, slots=True)
class Packing:
    """The offsets of one adapter's tensors."""

    offsets: Mapping[str, tuple[int, ...]]
    """Site -> offsets of its tensors from the start of the slot: `down` and `up`, or the table, or
    the vector. In the order of `SegmentLayout`'s sites."""
    kronecker: Mapping[str, tuple[int, int]]
    """Module path -> offsets of w1 and w2, in the order of `SegmentLayout.modules`."""
    nbytes: int
    """Bytes up to the end of the last tensor."""


def _align(offset: int, to: int) -> int:
    return -(-offset // to) * to


class SegmentLayout:
    """The table that server and manager derive; immutable after construction."""

    def __init__(self, parameters: LayoutParameters) -> None:
        p = self.parameters = parameters
        self.element_bytes = DTYPE_BYTES[p.dtype]
        self.low_rank_sites = {site.name: site for site in low_rank_sites(p)}
        self.delta_sites = {site.name: site for site in delta_sites(p)}
        self.vector_sites = {site.name: site for site in vector_sites(p)}
        self.slot_bytes = _align(self.packing(p.max_rank, self.sites).nbytes, SLOT_ALIGNMENT)

    @property
    def sites(self) -> tuple[str, ...]:
        """The names of all sites, in the order in which they lie in a slot."""
        return (*self.low_rank_sites, *self.delta_sites, *self.vector_sites)

    @cached_property
    def modules(self) -> dict[str, tuple[LowRankSite | DeltaSite, int]]:
        """Path of a linear layer in the diffusers transformer -> (its site, its part there)."""
        table: dict[str, tuple[LowRankSite | DeltaSite, int]] = {}
        for site in self.low_rank_sites.values():
            for part, module in enumerate(site.modules):
                table[module] = (site, part)
        for delta in self.delta_sites.values():
            table[delta.module] = (delta, 0)
        return table

    @cached_property
    def norms(self) -> dict[str, VectorSite]:
        """Path of a norm with weights in the diffusers transformer -> its site."""
        return {
            site.modules[0]: site
            for site in self.vector_sites.values()
            if site.modules[0] not in self.modules
        }

    def down_shape(self, site: LowRankSite, rank: int) -> tuple[int, int]:
        """Returns the shape of the site's stacked A matrices, packed for `rank`."""
        return len(site.modules) * rank, site.in_features

    def up_shape(self, site: LowRankSite, rank: int) -> tuple[int, int, int]:
        """Returns the shape of the site's transposed B matrices, packed for `rank`."""
        return len(site.modules), rank, site.out_features

    def delta_shape(self, site: DeltaSite) -> tuple[int, int]:
        """Returns the shape of the site's table."""
        return self.parameters.modulation_rows, site.out_features

    def vector_shape(self, site: VectorSite) -> tuple[int]:
        """Returns the shape of the site's vectors, one after another."""
        return (len(site.modules) * site.features,)

    def kronecker_shapes(
        self, module: str, first: tuple[int, int]
    ) -> tuple[tuple[int, int], tuple[int, int]]:
        """Returns the shapes of w1 and w2 of a module whose w1 has the shape `first`.

        Raises:
            ValueError: there is no such product, or no w2 completes w1 to the module's matrix.
        """
        site, _ = self.modules.get(module, (None, 0))
        if not isinstance(site, LowRankSite):
            raise ValueError(f"the layout has no product {module!r}")
        (rows, columns), (outer, inner) = first, (site.out_features, site.in_features)
        if rows < 1 or columns < 1 or outer % rows or inner % columns:
            raise ValueError(
                f"a Kronecker factor of {module} is [{rows}, {columns}], which does not divide "
                f"[{outer}, {inner}]"
            )
        return (rows, columns), (outer // rows, inner // columns)

    def packing(
        self, rank: int, sites: Iterable[str], kronecker: KroneckerShapes = NO_PRODUCTS
    ) -> Packing:
        """Returns the offsets of an adapter.

        Args:
            rank: that low-rank sites are packed for; 0 if there are none.
            sites: the sites that the adapter acts on by other means than Kronecker products.
            kronecker: modules that the adapter acts on by Kronecker products.

        Raises:
            ValueError: an argument does not belong to this layout.
        """
        named = set(sites)
        if unknown := named.difference(self.sites):
            raise ValueError(f"the layout has no site {min(unknown)!r}")
        least = 1 if named & self.low_rank_sites.keys() else 0
        if not least <= rank <= self.parameters.max_rank:
            raise ValueError(f"rank {rank} is outside {least}..{self.parameters.max_rank}")
        offset = end = 0

        def take(shape: tuple[int, ...]) -> int:
            nonlocal offset, end
            start = offset
            end = start + math.prod(shape) * self.element_bytes
            offset = _align(end, REGION_ALIGNMENT)
            return start

        offsets: dict[str, tuple[int, ...]] = {}
        for name, site in self.low_rank_sites.items():
            if name in named:
                down, up = self.down_shape(site, rank), self.up_shape(site, rank)
                offsets[name] = take(down), take(up)
        for name, delta in self.delta_sites.items():
            if name in named:
                offsets[name] = (take(self.delta_shape(delta)),)
        for name, vector in self.vector_sites.items():
            if name in named:
                offsets[name] = (take(self.vector_shape(vector)),)
        # Shapes are checked for every module that is named, also for those of no layout.
        shapes = {m: self.kronecker_shapes(m, first) for m, first in kronecker.items()}
        products = {
            module: (take(shapes[module][0]), take(shapes[module][1]))
            for module in self.modules
            if module in shapes
        }
        return Packing(offsets, products, end)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all names, shapes and packing rules; 64 hexadecimal digits."""
        digest = hashlib.sha256()
        digest.update(repr(self.parameters).encode())
        tables = (self.low_rank_sites, self.delta_sites, self.vector_sites)
        for site in (site for table in tables for site in table.values()):
            digest.update(repr(site).encode())
        digest.update(f"{REGION_ALIGNMENT} {self.slot_bytes}".encode())
        return digest.hexdigest()
