"""What a model asks of device memory, and what a plan makes of its layers.

Owns the sizes that are known before anything large is loaded. Scratch and the runtime's share are
measured figures, see `docs/memory.md`.
"""

from __future__ import annotations

import torch

from inference_server.engine.memory_plan import RING_SLOTS, Demand, MemoryPlan
from inference_server.model import packing
from inference_server.model.streaming import Ring, Streaming, spread
from inference_server.model.text_encoder import TextConfig, layer_shapes
from inference_server.model.transformer import TransformerConfig
from inference_server.model.transformer_loading import block_shapes

RUNTIME_BYTES = 700_000_000
"""CUDA's context, kernels, and the workspaces of cuBLAS and cuDNN."""

SCRATCH_BYTES = 900_000_000
"""Activations of a block with 4,608 tokens, or the decode in tiles, whichever is more."""

WHOLE_DECODE_BYTES = 2_500_000_000
"""The decode of 1024 x 1024 in one piece."""


def demand_of(
    config: TransformerConfig,
    text: TextConfig,
    dtype: torch.dtype,
    always: int,
    slots: int,
    device: torch.device,
) -> Demand:
    """Sizes of everything.

    Args:
        config: of the transformer.
        text: of the text encoder.
        dtype: of weights.
        always: bytes of the weights that never move.
        slots: bytes of the adapter arena.
        device: where it all lies.
    """
    on_gpu = device.type == "cuda"
    return Demand(
        always=always + (RUNTIME_BYTES if on_gpu else 0),
        slots=slots,
        scratch=SCRATCH_BYTES if on_gpu else 0,
        scratch_whole=WHOLE_DECODE_BYTES if on_gpu else 0,
        block=packing.elements(block_shapes(config)) * dtype.itemsize,
        blocks=config.blocks,
        text_layer=packing.elements(layer_shapes(text)) * dtype.itemsize,
        text_layers=text.layers,
    )


def streaming_of(
    plan: MemoryPlan, device: torch.device
) -> tuple[Streaming | None, Streaming | None]:
    """Of the blocks and of the text encoder's layers; both through one ring, allocated here."""
    if not plan.ring:
        return None, None
    ring = Ring(RING_SLOTS, plan.ring // RING_SLOTS, device)
    streamed = spread(plan.demand.blocks, plan.streamed_blocks)
    stay = [streamed[n] for n in spread(len(streamed), plan.staying_blocks)]
    text = None if plan.text_resident else range(plan.demand.text_layers)
    return Streaming(streamed, stay, ring), None if text is None else Streaming(text, (), ring)
