"""The layout of one adapter slot: which tensor of an adapter lies at which byte.

Server and manager derive the same table from the same `LayoutParameters`, and compare its hash
when the manager attaches.

A slot holds two kinds of regions:

* A `LowRankSite` is one matrix product of the model. It holds `down`, the A matrices of the
  modules fused into that product stacked to `[parts * r, in_features]`, and `up`, their B
  matrices transposed to `[parts, r, out_features]`, so that for part p

      y_p = W_p x + weight * (x @ down_p.T) @ up_p

  `r` is the adapter's packed rank, at most `max_rank`. alpha / rank is folded into `up`.
* A `DeltaSite` is a linear layer that reads the timestep alone, so its outputs are a table with
  one row per timestep. It holds what the adapter adds to that table: `[rows, out_features]`.

The regions of the sites that an adapter acts on lie densely, one after another, so that a small
adapter is few bytes to write, to hash and to copy. A slot can hold all sites at `max_rank`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final

REGION_ALIGNMENT: Final = 256
"""Bytes; the alignment that CUDA's vectorised loads and cuBLAS prefer."""

SLOT_ALIGNMENT: Final = 2 << 20
"""Bytes; the granularity of CUDA's physical allocations."""

DTYPE_BYTES: Final = {"float32": 4, "bfloat16": 2}

MAX_BLOCKS: Final = 1_000
MAX_FEATURES: Final = 1 << 17
"""Largest input or output of a product. Both bounds are far beyond any model; without them, a wrong
number from the other process would use memory before the hashes could be compared."""

MODULATION_SHARES: Final = 6
"""shift, scale and gate, for attention and for the feed-forward layer."""


@dataclass(frozen=True, slots=True)
class LayoutParameters:
    """All that a slot's layout depends on; the fields of the message of the same name."""

    blocks: int
    width: int
    mlp_width: int
    image_features: int
    output_features: int
    text_features: int
    modulation_rows: int
    max_rank: int
    dtype: str

    def __post_init__(self) -> None:
        if self.dtype not in DTYPE_BYTES:
            raise ValueError(f"slot dtype must be one of {sorted(DTYPE_BYTES)}, not {self.dtype!r}")
        for name in self.__slots__:
            value = getattr(self, name)
            most = MAX_BLOCKS if name == "blocks" else MAX_FEATURES
            if isinstance(value, int) and not 1 <= value <= most:
                raise ValueError(f"layout parameter {name} must be from 1 to {most}, not {value}")


@dataclass(frozen=True, slots=True)
class LowRankSite:
    """One matrix product that adapters add a low-rank product to."""

    name: str
    modules: tuple[str, ...]
    """Module paths in the diffusers transformer, one per part, in the order they are fused."""
    in_features: int
    out_features: int
    """Output features of each part."""


@dataclass(frozen=True, slots=True)
class DeltaSite:
    """One timestep-only linear layer that adapters add a table to."""

    name: str
    module: str
    out_features: int


@dataclass(frozen=True, slots=True)
class Packing:
    """The offsets of one adapter's tensors."""

    offsets: Mapping[str, tuple[int, ...]]
    """Site -> offsets of its tensors from the start of the slot: `down` and `up`, or the table.
    In the order of `SegmentLayout`'s sites."""
    nbytes: int
    """Bytes up to the end of the last tensor."""


def _block_products(n: int, p: LayoutParameters) -> list[tuple[str, tuple[str, ...], int, int]]:
    """Returns (site, modules, in, out) of block n's products, in the order they run."""
    path, d, m = f"transformer_blocks.{n}", p.width, p.mlp_width
    attn = f"{path}.attn"
    qkv = tuple(f"{attn}.{x}" for x in ("to_q", "to_k", "to_v"))
    add_qkv = tuple(f"{attn}.{x}" for x in ("add_q_proj", "add_k_proj", "add_v_proj"))
    return [
        (f"block{n}.img_qkv", qkv, d, d),
        (f"block{n}.txt_qkv", add_qkv, d, d),
        (f"block{n}.img_out", (f"{attn}.to_out.0",), d, d),
        (f"block{n}.txt_out", (f"{attn}.to_add_out",), d, d),
        (f"block{n}.img_mlp_up", (f"{path}.img_mlp.net.0.proj",), d, m),
        (f"block{n}.img_mlp_down", (f"{path}.img_mlp.net.2",), m, d),
        (f"block{n}.txt_mlp_up", (f"{path}.txt_mlp.net.0.proj",), d, m),
        (f"block{n}.txt_mlp_down", (f"{path}.txt_mlp.net.2",), m, d),
    ]


def _align(offset: int, to: int) -> int:
    return -(-offset // to) * to


class SegmentLayout:
    """The table that server and manager derive; immutable after construction."""

    def __init__(self, parameters: LayoutParameters) -> None:
        p = self.parameters = parameters
        self.element_bytes = DTYPE_BYTES[p.dtype]
        low_rank: dict[str, LowRankSite] = {}
        deltas: dict[str, DeltaSite] = {}
        products = [
            ("img_in", ("img_in",), p.image_features, p.width),
            ("txt_in", ("txt_in",), p.text_features, p.width),
            *(product for n in range(p.blocks) for product in _block_products(n, p)),
            ("proj_out", ("proj_out",), p.width, p.output_features),
        ]
        for name, modules, in_features, out_features in products:
            low_rank[name] = LowRankSite(name, modules, in_features, out_features)

        tables = [
            (f"block{n}.{stream}_mod", f"transformer_blocks.{n}.{stream}_mod.1", MODULATION_SHARES)
            for n in range(p.blocks)
            for stream in ("img", "txt")
        ]
        tables.append(("norm_out", "norm_out.linear", 2))
        for name, module, shares in tables:
            deltas[name] = DeltaSite(name, module, shares * p.width)

        self.low_rank_sites = low_rank
        self.delta_sites = deltas
        whole = self.packing(p.max_rank, (*low_rank, *deltas))
        self.slot_bytes = _align(whole.nbytes, SLOT_ALIGNMENT)

    @cached_property
    def modules(self) -> dict[str, tuple[LowRankSite | DeltaSite, int]]:
        """Module path in the diffusers transformer -> (its site, its part within the site)."""
        table: dict[str, tuple[LowRankSite | DeltaSite, int]] = {}
        for site in self.low_rank_sites.values():
            for part, module in enumerate(site.modules):
                table[module] = (site, part)
        for delta in self.delta_sites.values():
            table[delta.module] = (delta, 0)
        return table

    def down_shape(self, site: LowRankSite, rank: int) -> tuple[int, int]:
        """Returns the shape of the site's stacked A matrices, packed for `rank`."""
        return len(site.modules) * rank, site.in_features

    def up_shape(self, site: LowRankSite, rank: int) -> tuple[int, int, int]:
        """Returns the shape of the site's transposed B matrices, packed for `rank`."""
        return len(site.modules), rank, site.out_features

    def delta_shape(self, site: DeltaSite) -> tuple[int, int]:
        """Returns the shape of the site's table."""
        return self.parameters.modulation_rows, site.out_features

    def packing(self, rank: int, sites: Iterable[str]) -> Packing:
        """Returns the offsets of an adapter that acts on these sites, packed for `rank`.

        Raises:
            ValueError: the rank or a site does not belong to this layout.
        """
        if not 1 <= rank <= self.parameters.max_rank:
            raise ValueError(f"rank {rank} is outside 1..{self.parameters.max_rank}")
        named = set(sites)
        if unknown := named - self.low_rank_sites.keys() - self.delta_sites.keys():
            raise ValueError(f"the layout has no site {min(unknown)!r}")
        offsets: dict[str, tuple[int, ...]] = {}
        offset = end = 0

        def take(shape: tuple[int, ...]) -> int:
            nonlocal offset, end
            start = offset
            end = start + math.prod(shape) * self.element_bytes
            offset = _align(end, REGION_ALIGNMENT)
            return start

        for name, site in self.low_rank_sites.items():
            if name in named:
                down, up = self.down_shape(site, rank), self.up_shape(site, rank)
                offsets[name] = take(down), take(up)
        for name, delta in self.delta_sites.items():
            if name in named:
                offsets[name] = (take(self.delta_shape(delta)),)
        return Packing(offsets, end)

    @cached_property
    def hash(self) -> str:
        """SHA-256 over all names, shapes and packing rules; 64 hexadecimal digits."""
        digest = hashlib.sha256()
        digest.update(repr(self.parameters).encode())
        for site in (*self.low_rank_sites.values(), *self.delta_sites.values()):
            digest.update(repr(site).encode())
        digest.update(f"{REGION_ALIGNMENT} {self.slot_bytes}".encode())
        return digest.hexdigest()
