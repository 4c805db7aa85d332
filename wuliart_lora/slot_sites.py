"""The sites of a slot's layout: the places of the model that an adapter may change.

The server reads an adapter by the names of these sites, the manager writes it by them. Derived from
the model's shape alone; where a site's numbers lie is `slot_layout`'s.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

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
    head_features: int
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
    """One matrix product of the model, which adapters add products of their own to."""

    name: str
    modules: tuple[str, ...]
    """Module paths in the diffusers transformer, one per part, in the order they are fused."""
    in_features: int
    out_features: int
    """Output features of each part."""

    @property
    def bias(self) -> str:
        """Name of the `VectorSite` of the product's bias."""
        return f"{self.name}.bias"


@dataclass(frozen=True, slots=True)
class DeltaSite:
    """One timestep-only linear layer that adapters add a table to."""

    name: str
    module: str
    out_features: int


@dataclass(frozen=True, slots=True)
class VectorSite:
    """One vector of the model that adapters add to: a product's bias, or the weight of a norm."""

    name: str
    modules: tuple[str, ...]
    """Module paths in the diffusers transformer, whose vectors lie one after another."""
    features: int
    """Features of each module's vector."""


def low_rank_sites(p: LayoutParameters) -> Iterator[LowRankSite]:
    """Yields the products of the model, in the order they run."""
    yield LowRankSite("img_in", ("img_in",), p.image_features, p.width)
    yield LowRankSite("txt_in", ("txt_in",), p.text_features, p.width)
    d, m = p.width, p.mlp_width
    for n in range(p.blocks):
        path = f"transformer_blocks.{n}"
        attn = f"{path}.attn"
        qkv = tuple(f"{attn}.{x}" for x in ("to_q", "to_k", "to_v"))
        add_qkv = tuple(f"{attn}.{x}" for x in ("add_q_proj", "add_k_proj", "add_v_proj"))
        yield LowRankSite(f"block{n}.img_qkv", qkv, d, d)
        yield LowRankSite(f"block{n}.txt_qkv", add_qkv, d, d)
        yield LowRankSite(f"block{n}.img_out", (f"{attn}.to_out.0",), d, d)
        yield LowRankSite(f"block{n}.txt_out", (f"{attn}.to_add_out",), d, d)
        for stream in ("img", "txt"):
            up, down = (f"{path}.{stream}_mlp.net.{x}" for x in ("0.proj", "2"))
            yield LowRankSite(f"block{n}.{stream}_mlp_up", (up,), d, m)
            yield LowRankSite(f"block{n}.{stream}_mlp_down", (down,), m, d)
    yield LowRankSite("proj_out", ("proj_out",), p.width, p.output_features)


def delta_sites(p: LayoutParameters) -> Iterator[DeltaSite]:
    """Yields the timestep-only layers."""
    for n in range(p.blocks):
        for stream in ("img", "txt"):
            module = f"transformer_blocks.{n}.{stream}_mod.1"
            yield DeltaSite(f"block{n}.{stream}_mod", module, MODULATION_SHARES * p.width)
    yield DeltaSite("norm_out", "norm_out.linear", 2 * p.width)


def vector_sites(p: LayoutParameters) -> Iterator[VectorSite]:
    """Yields the biases of all products, then the norms that have weights."""
    for site in low_rank_sites(p):
        yield VectorSite(site.bias, site.modules, site.out_features)
    yield VectorSite("txt_norm", ("txt_norm",), p.text_features)
    for n in range(p.blocks):
        for name, module in (
            ("img_q_norm", "norm_q"),
            ("img_k_norm", "norm_k"),
            ("txt_q_norm", "norm_added_q"),
            ("txt_k_norm", "norm_added_k"),
        ):
            path = f"transformer_blocks.{n}.attn.{module}"
            yield VectorSite(f"block{n}.{name}", (path,), p.head_features)
