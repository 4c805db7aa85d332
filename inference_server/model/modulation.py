"""The timestep's whole influence on the transformer, as a table.

A third of Qwen-Image's weights (img_mod, txt_mod: 6.8 of 20.4 billion) reads nothing but the
timestep. With the noise levels fixed, their outputs are constants: computed once at load, exactly,
in float32, and the weights are never kept. An adapter that targets these layers becomes a table
of the same shape that is added (see `DeltaSite` in the contract's layout).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from inference_server.model.host_memory import sent
from inference_server.model.low_rank import GatedAdapter
from inference_server.model.transformer import StepModulation
from inference_server.model.transformer_weights import TransformerConfig

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
            for stream, name in enumerate(("img_mod", "txt_mod")):
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
            for name, delta in adapter.tensors.deltas.items():
                # Advanced indexing above made copies, so the base table stays untouched.
                chosen = delta[index].to(blocks.dtype)
                if name == "norm_out":
                    final.add_(chosen.view_as(final), alpha=adapter.gate)
                else:
                    block, stream = name.split(".")
                    target = blocks[:, int(block.removeprefix("block")), int(stream == "txt_mod")]
                    target.add_(chosen.view_as(target), alpha=adapter.gate)
        blocks, final = blocks.to(dtype), final.to(dtype)
        return [StepModulation(b, f) for b, f in zip(blocks, final, strict=True)]
