"""The timestep's whole influence on the transformer, as a table.

A third of Qwen-Image's weights (img_mod, txt_mod: 6.8 of 20.4 billion) reads nothing but the
timestep. With the noise levels fixed, their outputs are constants: computed once at load, exactly,
in float32, and the weights are never kept. An adapter that targets these layers becomes a table
of the same shape that is added (see `DeltaSite` in the contract's layout).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter
from inference_server.model.offload.pinned_memory import sent
from inference_server.model.transformer import StepModulation
from inference_server.model.transformer_weights import TransformerConfig

STREAMS = ("img_mod", "txt_mod")

TIME_FEATURES = 256
MAX_PERIOD = 10_000

ReadTensor = Callable[[str], Tensor]
"""Name in the diffusers checkpoint -> tensor, Turbo LoRA fused in."""


def conditioning(read: ReadTensor, levels: Sequence[float]) -> Tensor:
    """silu(temb) for each noise level: [rows, width], float32 on the CPU.

    Sinusoidal features of 1000 * sigma, cosines first, then two linear layers; diffusers
    `QwenTimestepProjEmbeddings`.
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
    """Base tables of all noise levels, float32.

    `blocks` is [rows, blocks, 2, 6, D] and `final` [rows, 2, D], with 1 already added to every
    scale; see `StepModulation`.
    """

    blocks: Tensor
    final: Tensor

    @classmethod
    def build(
        cls, config: TransformerConfig, read: ReadTensor, condition: Tensor
    ) -> ModulationTable:
        """Evaluates every timestep-only layer once per row of `condition` [rows, D], where it lies.

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
        """The same on another device."""
        return ModulationTable(self.blocks.to(device), self.final.to(device))

    @property
    def nbytes(self) -> int:
        """Bytes of both tables."""
        return self.blocks.nbytes + self.final.nbytes

    def select(
        self, rows: Sequence[int], adapters: Sequence[GatedAdapter], dtype: torch.dtype
    ) -> list[StepModulation]:
        """One `StepModulation` per entry of `rows`, adapters' deltas added, cast to `dtype`."""
        index = sent(torch.tensor(rows), self.blocks.device)
        blocks, final = self.blocks[index], self.final[index]
        for adapter in adapters:
            # Advanced indexing above made copies, so the base table stays untouched.
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

_found: WeakKeyDictionary[AdapterTensors, list[Run]] = WeakKeyDictionary()


def _runs(tensors: AdapterTensors) -> list[Run]:
    """The blocks' deltas, as few tensors as can be.

    In a slot they lie equally far apart: one addition does for sixty.
    """
    if (runs := _found.get(tensors)) is None:
        runs = _found[tensors] = [
            run for stream in range(len(STREAMS)) for run in _stream_runs(tensors, stream)
        ]
    return runs


def _stream_runs(tensors: AdapterTensors, stream: int) -> Iterator[Run]:
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
                deltas[count] = delta  # begins a run of its own
                break
            count += 1
        size = (count - first, *start.shape)
        yield first, stream, start.as_strided(size, (step, *start.stride()))
