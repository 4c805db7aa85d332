"""Stock diffusers' transformer and ours, at Qwen-Image's size, with the same random weights."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from diffusers import QwenImageTransformer2DModel
from torch import Tensor

from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.offload.layers import Streaming
from inference_server.model.schedule import FAMILIES, ScheduleTable
from inference_server.model.transformer import ImageInputs, Transformer
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.transformer import (
    block_fields,
    block_views,
    fill_block,
    load_transformer,
    read_edges,
)
from inference_server.weight_kind import WeightKind

TEXT_TOKENS = 80
"""Tokens of the prompt in both passes."""
GRID = (64, 64)
"""Rows and columns of image tokens at 1024 x 1024."""


class TransformerPair:
    """Both transformers on the first GPU in bf16, built when they are first used.

    Side by side they take 85 GB.
    """

    def __init__(self) -> None:
        self.device = torch.device("cuda:0")
        self.config = TransformerConfig()
        torch.manual_seed(0)
        tokens = GRID[0] * GRID[1]
        self.latents = torch.randn(tokens, 64, device=self.device, dtype=torch.bfloat16)
        self.text = torch.randn(512, 3584, device=self.device, dtype=torch.bfloat16)
        self.schedules = ScheduleTable.build(FAMILIES["lightning"])

    @cached_property
    def stock(self) -> Any:
        """Diffusers' transformer."""
        torch.set_default_dtype(torch.bfloat16)
        try:
            # Compiling refuses tensors made in inference mode.
            with torch.inference_mode(False), self.device:
                model: Any = QwenImageTransformer2DModel()
        finally:
            torch.set_default_dtype(torch.float32)
        return model.requires_grad_(False).eval()

    @cached_property
    def state(self) -> dict[str, Tensor]:
        """Weights of the stock transformer by name."""
        return dict(self.stock.state_dict())

    def read(self, name: str) -> Tensor:
        """Returns a weight as if from a checkpoint."""
        return self.state[name]

    @cached_property
    def table(self) -> ModulationTable:
        """The modulation table of our transformer."""
        condition = conditioning(lambda name: self.read(name).cpu(), self.schedules.rows)
        return ModulationTable.build(self.config, self.read, condition.to(self.device))

    def fields(self, kind: WeightKind, rank: int) -> Fields:
        """Returns the tensors of a block's flat buffer."""
        return block_fields(self.config, torch.bfloat16, kind, rank)

    def ours(
        self,
        streaming: Streaming | None = None,
        kind: WeightKind = WeightKind.BF16,
        rank: int = 0,
    ) -> Transformer:
        """Builds our transformer, resident or streamed, with spare columns for `rank`."""

        def fill(index: int, buffer: Tensor) -> None:
            fill_block(block_views(self.fields(kind, rank), buffer), index, self.read)

        edges = read_edges(self.read)
        return load_transformer(
            self.config,
            edges,
            fill,
            grid=GRID,
            device=self.device,
            dtype=torch.bfloat16,
            kind=kind,
            streaming=streaming,
            rank=rank,
        )

    @cached_property
    def resident(self) -> Transformer:
        """Our transformer with all blocks on the device."""
        return self.ours()

    def image(self, model: Transformer, tokens: int = TEXT_TOKENS) -> ImageInputs:
        """Returns an image's inputs at the first noise level."""
        (modulation,) = self.table.select([0], [], torch.bfloat16)
        return ImageInputs(
            self.latents, self.text[:tokens], model.text_rotation(tokens), modulation
        )

    def stock_step(self) -> Tensor:
        """Runs one forward pass of the stock transformer, without a mask."""
        out: Tensor = self.stock(
            hidden_states=self.latents[None],
            encoder_hidden_states=self.text[None, :TEXT_TOKENS],
            timestep=torch.ones(1, device=self.device, dtype=torch.bfloat16),
            img_shapes=[[(1, *GRID)]],
            return_dict=False,
        )[0][0]
        return out
