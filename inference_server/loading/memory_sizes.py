"""Measured sizes of device memory that do not follow from shapes, and the streaming of a plan.

`docs/decisions.md` says how the sizes were measured.
"""

from __future__ import annotations

import torch

from inference_server.engine.memory_plan import MemoryPlan
from inference_server.model.offload.layers import Streaming, spread
from inference_server.model.offload.ring import Ring

CONTEXT_BYTES = 950_000_000
"""CUDA's context and kernels, outside of PyTorch's allocator: 0.93 GB on an H200."""

WORKSPACE_BYTES = 300_000_000
"""Workspaces of cuBLAS and cuDNN, allocated per stream through PyTorch and never freed."""

SCRATCH_BYTES = 600_000_000
"""Activations of four images with long prompts, or the decode in tiles (0.25 GB)."""

WHOLE_DECODE_BYTES = 900_000_000
"""The same with the decode of 1024 x 1024 in one piece (0.71 GB)."""


def runtime_bytes(device: torch.device) -> int:
    """Returns the bytes that the device's runtime libraries take."""
    return CONTEXT_BYTES + WORKSPACE_BYTES if device.type == "cuda" else 0


def scratch_bytes(device: torch.device) -> dict[str, int]:
    """Returns `scratch` and `scratch_whole` of a `Demand`; a CPU's memory is not planned."""
    on_gpu = device.type == "cuda"
    return {
        "scratch": SCRATCH_BYTES if on_gpu else 0,
        "scratch_whole": WHOLE_DECODE_BYTES if on_gpu else 0,
    }


def limit_allocator(device: torch.device, budget: int) -> None:
    """Limits PyTorch to the budget, so that a wrong plan fails here and not in another process."""
    _, total = torch.cuda.mem_get_info(device)
    share = min(1.0, max(0.0, budget - CONTEXT_BYTES) / total)
    torch.cuda.set_per_process_memory_fraction(share, device)


def streaming_of(
    plan: MemoryPlan, device: torch.device
) -> tuple[Streaming | None, Streaming | None]:
    """Allocates the ring; returns the streaming of the blocks and of the text encoder's layers."""
    if not plan.ring:
        return None, None
    d = plan.demand
    slot = max(d.block, d.text_layer)
    ring = Ring(plan.ring // slot, slot, device)
    streamed = spread(d.blocks, plan.streamed_blocks)
    stay = [streamed[n] for n in spread(len(streamed), plan.cached_blocks)]
    text = spread(d.text_layers, plan.streamed_text_layers)
    return (
        Streaming(streamed, stay, ring, repeats=True),
        Streaming(text, (), ring, repeats=False),
    )
