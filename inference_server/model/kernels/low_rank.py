"""Adapters as the transformer sees them, and their sum beside a matrix product."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


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


@dataclass(frozen=True, slots=True)
class GatedAdapter:
    """An adapter and its weight in one image."""

    tensors: AdapterTensors
    gate: float


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    *,
    site: str,
    adapters: Sequence[GatedAdapter],
    out: Tensor | None = None,
) -> Tensor:
    """Computes y_p = x W_p^T + b_p + sum over adapters of gate * (x down_p^T) up_p.

    Args:
        x: [tokens, in].
        weight: [parts * out, in], the base matrices of all parts p stacked.
        bias: [parts * out].
        site: the product's name in the layout.
        adapters: the image's adapters; those without factors for the site are skipped.
        out: where the result goes; None: a new tensor.

    Returns:
        [tokens, parts * out].
    """
    return add_adapters(torch.addmm(bias, x, weight.T, out=out), x, site=site, adapters=adapters)


def add_adapters(y: Tensor, x: Tensor, *, site: str, adapters: Sequence[GatedAdapter]) -> Tensor:
    """Adds the adapters' part to y, the product of x, in place; see `adapted_linear`."""
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
    return y
