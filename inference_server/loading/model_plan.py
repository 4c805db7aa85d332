"""Plans a model's memory: adapter capacity, spare columns for folded adapters, the memory plan."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from typing import Final, NamedTuple

import torch

from inference_server.engine.loaded_model import AdapterCapacity
from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.engine.prompt_cache import PROMPT_CACHE_BYTES
from inference_server.errors import ModelError
from inference_server.loading.adapter_budget import choose_capacity
from inference_server.loading.memory_budget import make_plan
from inference_server.loading.memory_sizes import runtime_bytes, scratch_bytes
from inference_server.model.folded_adapters import window_bytes
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.weights import packing
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.text_encoder import layer_fields
from inference_server.model.weights.transformer import block_fields
from inference_server.weight_kind import WeightKind

FOLDED: Final = 2
"""Adapters of the largest rank that fit into the spare columns at once; others are added beside
the products."""

LARGEST_FOLD: Final = 128
"""Largest sum of their ranks: spare columns behind Qwen-Image's matrices take 25 MB a block then,
and their windows 14 MB."""


class MemoryLimits(NamedTuple):
    """The operator's limits for one model."""

    budget: int | None
    """Maximum bytes on the device while images are generated; None: no limit."""
    idle: int | None
    """Maximum bytes on the device between images; None: the plan decides."""
    slots: int | None = None
    """Adapters resident at once; None: chosen by the budget."""
    max_rank: int | None = None
    """Largest rank of an adapter; None: chosen by the budget."""
    pinned: int = 0
    """Adapters that are never evicted."""


UNLIMITED: Final = MemoryLimits(None, None)


class ModelPlan(NamedTuple):
    """How a model will lie in memory."""

    capacity: AdapterCapacity
    memory: MemoryPlan
    block: Fields
    """A transformer block's flat buffer."""
    text_layer: Fields
    """A text encoder layer's flat buffer."""
    folded_rank: int
    """Spare columns for adapters behind each matrix of a block; 0 for none."""


def plan_model(
    config: TransformerConfig,
    text_config: TextConfig,
    *,
    unmoved: int,
    slot_bytes: Callable[[int], int],
    device: torch.device,
    dtype: torch.dtype,
    kind: WeightKind,
    limits: MemoryLimits,
) -> ModelPlan:
    """Plans a model's memory.

    Args:
        config: the transformer's shape.
        text_config: the text encoder's shape.
        unmoved: bytes of edges, tables and VAE, which always stay on the device.
        slot_bytes: returns the size of a slot for adapters up to a rank.
        device: where the model will compute.
        dtype: of weights that are not quantized.
        kind: how the blocks' matrices are stored.
        limits: the operator's.

    Raises:
        ModelError: the limits are too small for the model.
    """
    capacity = choose_capacity(
        limits.budget,
        slot_bytes,
        slots=limits.slots,
        max_rank=limits.max_rank,
        pinned=limits.pinned,
    )
    text_layer = layer_fields(text_config, dtype)

    def planned(rank: int) -> ModelPlan:
        block = block_fields(config, dtype, kind, rank)
        demand = Demand(
            always=unmoved + PROMPT_CACHE_BYTES + runtime_bytes(device),
            slots=capacity.allocated * slot_bytes(capacity.max_rank),
            **scratch_bytes(device),
            block=packing.nbytes(block) + window_bytes(config, rank, dtype),
            blocks=config.blocks,
            text_layer=packing.nbytes(text_layer),
            text_layers=text_config.layers,
        )
        memory = make_plan(demand, limits.budget, limits.idle)
        return ModelPlan(capacity, memory, block, text_layer, rank)

    plain = planned(0)
    # Where blocks are streamed, copies hide the adapters' cost, and spare columns would be copied.
    if not plain.memory.streamed_blocks and kind is WeightKind.BF16:
        with suppress(ModelError):
            folding = planned(min(FOLDED * capacity.max_rank, LARGEST_FOLD))
            if not folding.memory.streamed_blocks:
                return folding
    return plain
