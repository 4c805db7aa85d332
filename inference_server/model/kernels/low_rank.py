"""Low-rank additions to a matrix product: what an adapter is to the transformer.

Owns the arithmetic; knows nothing of slots, files or names of adapters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


class SiteFactors(NamedTuple):
    """One adapter at one product; views into its slot.

    `down` is [parts * r, in], `up` is [parts, r, out]; alpha / rank is folded into `up`.
    """

    down: Tensor
    up: Tensor


@dataclass(frozen=True, eq=False, slots=True, weakref_slot=True)
class AdapterTensors:
    """All of one adapter, as views into its slot; each object is one version and equals itself."""

    factors: Mapping[str, SiteFactors]
    """By name of the layout's low-rank site."""
    deltas: Mapping[str, Tensor]
    """By name of the layout's delta site: [rows, features] added to the modulation table."""


@dataclass(frozen=True, slots=True)
class GatedAdapter:
    """An adapter and the strength it acts with in one image."""

    tensors: AdapterTensors
    gate: float


def adapted_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    site: str,
    adapters: Sequence[GatedAdapter],
    out: Tensor | None = None,
) -> Tensor:
    """y_p = x W_p^T + b_p + sum over adapters of gate * (x down_p^T) up_p.

    Args:
        x: [tokens, in].
        weight: [parts * out, in], the base's matrices of all parts stacked.
        bias: [parts * out].
        site: which product of the layout this is.
        adapters: those active in this image; ones that do not act on the site cost nothing.
        out: where the result goes, if it has a place.

    Returns:
        [tokens, parts * out].
    """
    return add_adapters(torch.addmm(bias, x, weight.T, out=out), x, site, adapters)


def add_adapters(y: Tensor, x: Tensor, site: str, adapters: Sequence[GatedAdapter]) -> Tensor:
    """Adds the adapters' part to the finished product y of x, in place."""
    for adapter in adapters:
        factors = adapter.tensors.factors.get(site)
        if factors is None:
            continue
        parts, rank, out_features = factors.up.shape
        reduced = F.linear(x, factors.down)
        for part in range(parts):
            # In place on a column block: the product lands in y without a temporary of its size.
            columns = y[:, part * out_features : (part + 1) * out_features]
            columns.addmm_(
                reduced[:, part * rank : (part + 1) * rank], factors.up[part], alpha=adapter.gate
            )
    return y
