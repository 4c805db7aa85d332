"""From a checkpoint folder to everything one picture needs, on one device.

Owns the order of loading and the sizes that follow from the fixed picture size; knows nothing of
requests.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from inference_server.engine.demand import demand_of, streaming_of
from inference_server.engine.memory_plan import MemoryPlan, make_plan
from inference_server.errors import ModelError
from inference_server.model.checkpoint import Checkpoint
from inference_server.model.latents import PreviewProjection
from inference_server.model.modulation import ModulationTable, conditioning
from inference_server.model.preview import preview_projection
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.text_encoder import TextConfig, TextEncoder
from inference_server.model.transformer import Transformer, TransformerConfig
from inference_server.model.transformer_loading import load_edges, load_transformer
from inference_server.model.turbo import FusedWeights
from inference_server.model.vae import VaeConfig, VaeDecoder
from wuliart.contract.layout import LayoutParameters, SegmentLayout
from wuliart.contract.limits import IMAGE_SIZE, MAX_STEPS, MIN_STEPS

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """A checkpoint ready to draw."""

    name: str
    parameters: int
    """Of the transformer as the checkpoint has it."""
    turbo_lora: str
    device: torch.device
    dtype: torch.dtype
    latent_size: int
    """Latent pixels along one side of the picture."""
    plan: MemoryPlan
    transformer: Transformer
    modulation: ModulationTable
    conditioning: Tensor
    """silu(temb), [rows, width] float32 on the CPU; the LoRA manager needs it."""
    schedules: ScheduleTable
    tokenizer: PromptTokenizer
    text_encoder: TextEncoder
    vae: VaeDecoder
    preview: PreviewProjection

    def layout(self, max_rank: int) -> SegmentLayout:
        """The layout of an adapter slot for this model."""
        return slot_layout(self.transformer.config, self.schedules, self.dtype, max_rank)


class Memory(NamedTuple):
    """What the operator allows."""

    budget: int | None
    """Most bytes on the device while pictures are drawn; None: as much as it takes."""
    idle: int | None
    """Most bytes between them; None: the plan decides."""
    slots: int
    """Of the adapter segment."""
    max_rank: int


UNLIMITED = Memory(None, None, 1, 16)


def load_model(
    checkpoint: Checkpoint,
    device: torch.device,
    dtype: torch.dtype,
    turbo_lora: Path | None = None,
    name: str | None = None,
    memory: Memory = UNLIMITED,
) -> LoadedModel:
    """Loads everything a picture needs and nothing else, where the memory plan puts it.

    Raises:
        ModelError: a component is missing, damaged, or of another model; or the budget is too
            small for it.
    """
    started = time.perf_counter()
    config = TransformerConfig.from_json(checkpoint.config("transformer"))
    vae_config = VaeConfig.from_json(checkpoint.config("vae"))
    latent_size = IMAGE_SIZE // vae_config.spatial_factor
    if config.in_channels != vae_config.z * config.patch**2 or config.patch != 2:
        raise ModelError(
            f"{checkpoint.folder}: the transformer takes {config.in_channels} channels a token, "
            f"the VAE gives {vae_config.z} in {config.patch}x{config.patch} patches"
        )
    grid = (latent_size // config.patch, latent_size // config.patch)
    schedules = ScheduleTable.build(
        range(MIN_STEPS, MAX_STEPS + 1), grid[0] * grid[1], checkpoint.config("scheduler")
    )
    tokenizer = PromptTokenizer(checkpoint.folder / "tokenizer")
    files = checkpoint.weights("transformer")
    read = FusedWeights(files, turbo_lora).read
    condition = conditioning(read, schedules.rows)
    modulation = ModulationTable.build(config, read, condition, device)
    vae = VaeDecoder(vae_config, checkpoint.weights("vae"), device, dtype)
    preview = preview_projection(checkpoint.folder / "vae", vae, device)
    edges = load_edges(read, device, dtype)
    layout = slot_layout(config, schedules, dtype, memory.max_rank)
    text_config = TextConfig.from_json(checkpoint.config("text_encoder"))

    always = modulation.nbytes + vae.nbytes + edges.nbytes
    demand = demand_of(config, text_config, dtype, always, memory.slots * layout.slot_bytes, device)
    plan = make_plan(demand, memory.budget, memory.idle)
    for segment in plan.segments():
        log.info("memory: %-28s %9.1f MB", segment.name, segment.nbytes / 1e6)
    log.info("memory: %.2f GB idle, %.2f GB at most", plan.idle / 1e9, plan.peak / 1e9)
    of_blocks, of_text = streaming_of(plan, device)
    transformer = load_transformer(config, edges, read, grid, device, dtype, of_blocks)
    text_encoder = TextEncoder(
        text_config, checkpoint.weights("text_encoder"), device, dtype, of_text
    )
    log.info("loaded %s in %.1f s", checkpoint.folder, time.perf_counter() - started)
    return LoadedModel(
        name=name or checkpoint.folder.name,
        parameters=files.parameter_count(),
        turbo_lora=turbo_lora.name if turbo_lora else "",
        device=device,
        dtype=dtype,
        latent_size=latent_size,
        plan=plan,
        transformer=transformer,
        modulation=modulation,
        conditioning=condition,
        schedules=schedules,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        preview=preview,
    )


def slot_layout(
    config: TransformerConfig, schedules: ScheduleTable, dtype: torch.dtype, max_rank: int
) -> SegmentLayout:
    """The layout of an adapter slot for a model."""
    return SegmentLayout(
        LayoutParameters(
            blocks=config.blocks,
            width=config.width,
            mlp_width=config.mlp_width,
            image_features=config.in_channels,
            output_features=config.output_features,
            text_features=config.text_features,
            modulation_rows=len(schedules.rows),
            max_rank=max_rank,
            dtype=str(dtype).removeprefix("torch."),
        )
    )
