"""Adapters as the transformer sees them, and their sum beside a matrix product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.kernels.operations import KroneckerProduct, Operations


class SiteFactors(NamedTuple):
    """One adapter's factors at one product, as views into its slot; alpha / r is in `up`."""

    down: Tensor
    """[parts * r, in]"""
    up: Tensor
    """[parts, r, out]"""


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class AdapterTensors:
    """One version of an adapter, as views into its slot; compares equal only to itself."""

    factors: Mapping[str, SiteFactors]
    """By the name of the layout's low-rank site."""
    deltas: Mapping[str, Tensor]
    """[rows, features], added to the modulation table; by the name of the layout's delta site."""
    kronecker: Mapping[str, tuple[KroneckerProduct, ...]] = field(default_factory=dict)
    """By the name of the layout's low-rank site, at most one for each of its parts."""
    vectors: Mapping[str, Tensor] = field(default_factory=dict)
    """[parts * features], added to a bias or a norm's weight; by the name of the layout's vector
    site."""


@dataclass(frozen=True, slots=True)
class GatedAdapter:
    """An adapter and its weight in one image."""

    tensors: AdapterTensors
    gate: float


def adapted_vector(vector: Tensor, *, site: str, adapters: Sequence[GatedAdapter]) -> Tensor:
    """Returns a bias or a norm's weight with what the adapters add; itself if they add nothing."""
    for adapter in adapters:
        if (added := adapter.tensors.vectors.get(site)) is not None:
            vector = torch.add(vector, added, alpha=adapter.gate)
    return vector


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    site: str,
    adapters: Sequence[GatedAdapter],
    ops: Operations,
) -> Tensor:
    """Computes y_p = x W_p^T + b_p + sum over adapters of gate * (x dW_p^T + db_p).

    Args:
        x: [tokens, in].
        weight: [parts * out, in], the base matrices of all parts p stacked.
        bias: [parts * out].
        site: the product's name in the layout.
        adapters: the image's adapters; those that do not act on the site are skipped.
        ops: the operations between the products.

    Returns:
        [tokens, parts * out].
    """
    bias = adapted_vector(bias, site=f"{site}.bias", adapters=adapters)
    y = torch.addmm(bias, x, weight.T)
    add_low_rank(y, x, site=site, adapters=adapters)
    add_kronecker(y, x, site=site, adapters=adapters, ops=ops)
    return y


def add_kronecker(
    y: Tensor,
    x: Tensor,
    *,
    site: str,
    adapters: Sequence[GatedAdapter],
    ops: Operations,
    gelu: bool = False,
) -> None:
    """Adds the adapters' Kronecker products to y, the product of x, in place.

    Args:
        y: [tokens, parts * out].
        x: [tokens, in].
        site: the product's name in the layout.
        adapters: the image's adapters; those without such a product at the site are skipped.
        ops: the operations between the products.
        gelu: apply gelu (tanh approximation) to the sum; one adapter must act on the site.
    """
    acting = [
        (products, adapter.gate)
        for adapter in adapters
        if (products := adapter.tensors.kronecker.get(site))
    ]
    for index, (products, gate) in enumerate(acting):
        ops.add_kronecker_(y, x, products, gate, gelu=gelu and index == len(acting) - 1)


def add_low_rank(y: Tensor, x: Tensor, *, site: str, adapters: Sequence[GatedAdapter]) -> None:
    """Adds the adapters' low-rank products to y, the product of x, in place."""
    for adapter in adapters:
        factors = adapter.tensors.factors.get(site)
        if factors is None:
            continue
        parts, rank, out_features = factors.up.shape
        reduced = F.linear(x, factors.down)
        for part in range(parts):
            # In place on a block of columns: no temporary of y's size.
            columns = y[:, part * out_features : (part + 1) * out_features]
            columns.addmm_(
                reduced[:, part * rank : (part + 1) * rank], factors.up[part], alpha=adapter.gate
            )
