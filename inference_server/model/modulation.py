"""The timestep's influence on the transformer, as a table.

A third of Qwen-Image's weights (img_mod, txt_mod: 6.8 of 20.4 billion) depends on the timestep
alone. With fixed noise levels their outputs are constants: they are computed once at load, in
float32, and the weights are dropped. An adapter for these layers becomes a table of the same shape
that is added (see `wuliart_lora.slot_layout.DeltaSite`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.host_to_device import copy_to_device
from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter
from inference_server.model.transformer_weights import TransformerConfig

STREAMS = ("img_mod", "txt_mod")

TIME_FEATURES = 256
"""Sinusoidal features of a timestep; diffusers `QwenTimestepProjEmbeddings`."""
MAX_PERIOD = 10_000
"""Longest period of a sinusoidal feature; diffusers `get_timestep_embedding`."""

ReadTensor = Callable[[str], Tensor]
"""Name in the diffusers checkpoint -> tensor, with the Turbo LoRA fused in."""


class StepModulation(NamedTuple):
    """One noise level's rows of the modulation table, the adapters' deltas added."""

    blocks: Tensor
    """[blocks, 2 streams (img, txt), 6, D]: shift, 1 + scale, gate of the attention, then of the
    feed-forward layer."""
    final: Tensor
    """[2, D]: 1 + scale, shift of the final norm."""


def conditioning(read: ReadTensor, levels: Sequence[float]) -> Tensor:
    """Computes silu(temb) for each noise level.

    temb is two linear layers over sinusoidal features of 1000 * sigma, cosines first; diffusers
    `QwenTimestepProjEmbeddings`.

    Args:
        read: reads the layers' weights.
        levels: noise levels sigma, 0 to 1.

    Returns:
        [levels, D], float32 on the CPU.
    """
    half = TIME_FEATURES // 2
    frequencies = torch.exp(-math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32) / half)
    angles = 1000.0 * torch.tensor(levels, dtype=torch.float32)[:, None] * frequencies
    features = torch.cat([angles.cos(), angles.sin()], dim=1)
    path = "time_text_embed.timestep_embedder"
    hidden = F.silu(_linear(features, read, f"{path}.linear_1"))
    return F.silu(_linear(hidden, read, f"{path}.linear_2"))


def _linear(x: Tensor, read: ReadTensor, module: str) -> Tensor:
    return F.linear(x, read(f"{module}.weight").float(), read(f"{module}.bias").float())


@dataclass(frozen=True, slots=True)
class ModulationTable:
    """The base model's modulation at all noise levels, float32; see `StepModulation`."""

    blocks: Tensor
    """[rows, blocks, 2, 6, D], with 1 already added to every scale."""
    final: Tensor
    """[rows, 2, D], with 1 already added to the scale."""

    @classmethod
    def build(
        cls, config: TransformerConfig, read: ReadTensor, condition: Tensor
    ) -> ModulationTable:
        """Evaluates every timestep-only layer at every noise level.

        Args:
            config: the transformer's shape.
            read: reads the layers' weights, to the device of `condition`.
            condition: [rows, D], from `conditioning`; the tables are built on its device.

        Raises:
            ModelError: through `read`, if a layer is missing.
        """
        rows, width = condition.shape
        blocks = torch.empty(rows, config.blocks, 2, 6, width, device=condition.device)
        for n in range(config.blocks):
            for stream, name in enumerate(STREAMS):
                out = _linear(condition, read, f"transformer_blocks.{n}.{name}.1")
                blocks[:, n, stream] = out.view(rows, 6, width)
        blocks[:, :, :, 1] += 1.0
        blocks[:, :, :, 4] += 1.0
        final = _linear(condition, read, "norm_out.linear").view(rows, 2, width)
        final[:, 0] += 1.0
        return cls(blocks, final)

    def to(self, device: torch.device) -> ModulationTable:
        """Returns the tables on another device."""
        return ModulationTable(self.blocks.to(device), self.final.to(device))

    @property
    def nbytes(self) -> int:
        """Size of both tables in bytes."""
        return self.blocks.nbytes + self.final.nbytes

    def select(
        self, rows: Sequence[int], adapters: Sequence[GatedAdapter], dtype: torch.dtype
    ) -> list[StepModulation]:
        """Returns one `StepModulation` per entry of `rows`, in `dtype`, with the deltas added."""
        index = copy_to_device(torch.tensor(rows), self.blocks.device)
        blocks, final = self.blocks[index], self.final[index]
        for adapter in adapters:
            # Advanced indexing has copied the rows, so the base tables stay unchanged.
            for first, stream, run in _runs(adapter.tensors):
                target = blocks[:, first : first + len(run), stream]
                chosen = run[:, index].transpose(0, 1).to(blocks.dtype)
                target.add_(chosen.view_as(target), alpha=adapter.gate)
            if (delta := adapter.tensors.deltas.get("norm_out")) is not None:
                chosen = delta[index].to(final.dtype)
                final.add_(chosen.view_as(final), alpha=adapter.gate)
        blocks, final = blocks.to(dtype), final.to(dtype)
        return [StepModulation(b, f) for b, f in zip(blocks, final, strict=True)]


Run = tuple[int, int, Tensor]
"""First block, stream (0 img, 1 txt), and the deltas [blocks, rows, 6 D] from that block on."""

_cached_runs: WeakKeyDictionary[AdapterTensors, list[Run]] = WeakKeyDictionary()


def _runs(tensors: AdapterTensors) -> list[Run]:
    """Returns an adapter's deltas of the blocks as few strided tensors.

    In a slot the blocks' deltas are equally spaced, so one addition serves all sixty blocks.
    """
    if (runs := _cached_runs.get(tensors)) is None:
        runs = _cached_runs[tensors] = [
            run for stream in range(len(STREAMS)) for run in _stream_runs(tensors, stream)
        ]
    return runs


def _stream_runs(tensors: AdapterTensors, stream: int) -> Iterator[Run]:
    """Yields one stream's runs of consecutive blocks whose deltas are equally spaced."""
    pattern = re.compile(rf"block(\d+)\.{STREAMS[stream]}")
    numbered = ((pattern.fullmatch(site), delta) for site, delta in tensors.deltas.items())
    deltas = {int(match[1]): delta for match, delta in numbered if match}
    while deltas:
        first = count = min(deltas)
        start = deltas[first]
        step = 0
        while (delta := deltas.pop(count, None)) is not None:
            distance = int(delta.storage_offset() - start.storage_offset())
            apart = delta.untyped_storage().data_ptr() != start.untyped_storage().data_ptr()
            if count == first + 1 and distance > 0:
                step = distance
            if apart or distance != step * (count - first):
                deltas[count] = delta  # starts the next run
                break
            count += 1
        size = (count - first, *start.shape)
        yield first, stream, start.as_strided(size, (step, *start.stride()))
