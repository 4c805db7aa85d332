"""The record of a model that is loaded and ready to generate; filled by `loading`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from inference_server.engine.memory_plan import MemoryPlan
from inference_server.model.latents import PreviewProjection
from inference_server.model.modulation import ModulationTable
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.model.text_encoder import TextEncoder
from inference_server.model.transformer import Transformer
from inference_server.model.transformer_weights import TransformerConfig
from inference_server.model.vae import VaeDecoder
from inference_server.model.weights.stored_form import Remark
from wuliart_lora.slot_layout import LayoutParameters, SegmentLayout


class AdapterCapacity(NamedTuple):
    """How many adapters stay on the device at once, and of what rank."""

    slots: int
    """Adapters that are resident at once; one spare slot comes on top."""
    max_rank: int

    @property
    def allocated(self) -> int:
        """Slots that are allocated, the spare one included."""
        return self.slots + 1


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint ready to generate on one device."""

    name: str
    parameters: int
    """Parameters of the transformer as the checkpoint has it."""
    turbo_lora: str
    """File name of the few-step LoRA that was fused; empty if none was."""
    device: torch.device
    dtype: torch.dtype
    latent_size: int
    """Latent pixels along one side of the image."""
    plan: MemoryPlan
    transformer: Transformer
    modulation: ModulationTable
    conditioning: Tensor
    """silu(temb), [rows, width] float32 on the CPU; the LoRA manager needs it."""
    adapter_capacity: AdapterCapacity
    remarks: tuple[Remark, ...]
    """About how the weights were stored."""
    images_per_step: int
    """Images that share a step, unless `--max-batch` says otherwise."""
    schedule: ChosenSchedule
    schedules: ScheduleTable
    tokenizer: PromptTokenizer
    text_encoder: TextEncoder
    vae: VaeDecoder
    preview: PreviewProjection

    def layout(self, max_rank: int) -> SegmentLayout:
        """Returns the layout of an adapter slot of this model for adapters up to a rank."""
        return slot_layout(self.transformer.config, self.schedules, self.dtype, max_rank)


def slot_layout(
    config: TransformerConfig, schedules: ScheduleTable, dtype: torch.dtype, max_rank: int
) -> SegmentLayout:
    """Returns the layout of an adapter slot for a model, before or after it is loaded."""
    return SegmentLayout(
        LayoutParameters(
            blocks=config.blocks,
            width=config.width,
            mlp_width=config.mlp_width,
            image_features=config.in_channels,
            output_features=config.output_features,
            text_features=config.text_features,
            head_features=config.head_dim,
            modulation_rows=len(schedules.rows),
            max_rank=max_rank,
            dtype=str(dtype).removeprefix("torch."),
        )
    )
