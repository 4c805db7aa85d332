"""From a checkpoint folder to everything one image needs, on one device.

Owns the order of loading and the sizes that follow from the fixed image size; knows nothing of
requests.
"""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from inference_server.engine.loaded_model import LoadedModel, slot_layout
from inference_server.engine.memory_plan import Demand, MemoryPlan
from inference_server.engine.prompt_cache import PROMPT_CACHE_BYTES
from inference_server.errors import ModelError
from inference_server.loading.adapter_budget import choose_room
from inference_server.loading.batch_limit import images_per_step, measure, step_flops
from inference_server.loading.memory_plan import make_plan
from inference_server.loading.memory_sizes import (
    limit_allocator,
    runtime_bytes,
    scratch_bytes,
    streaming_of,
)
from inference_server.model.folded_adapters import window_bytes
from inference_server.model.preview import preview_projection
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.vae import VaeConfig, VaeDecoder
from inference_server.model.weights import packing
from inference_server.model.weights.checkpoint import Checkpoint
from inference_server.model.weights.hub import locate
from inference_server.model.weights.packing import Fields
from inference_server.model.weights.prepared import PreparedSource
from inference_server.model.weights.prepared_files import UNFINISHED, is_prepared
from inference_server.model.weights.source import Source, StockSource
from inference_server.model.weights.text_encoder import layer_fields, load_text_encoder
from inference_server.model.weights.transformer import block_fields, load_transformer
from inference_server.weight_kind import WeightKind
from wuliart_contract.limits import IMAGE_SIZE

log = logging.getLogger(__name__)


class Memory(NamedTuple):
    """What the operator allows."""

    budget: int | None
    """Most bytes on the device while images are generated; None: as much as it takes."""
    idle: int | None
    """Most bytes between them; None: the plan decides."""
    slots: int | None = None
    """Adapters resident at once; None: by the budget."""
    max_rank: int | None = None
    """Of an adapter; None: by the budget."""
    pinned: int = 0
    """Adapters that never make room for others."""


FOLDED = 2
"""Adapters of the largest rank that find room behind the matrices at once; others do without."""

LARGEST_FOLD = 128
"""Rank of them all: behind Qwen-Image's matrices it takes 25 MB a block, and 14 beside them."""

FP8_CAPABILITY = (8, 9)

UNLIMITED = Memory(None, None)


def open_source(folder: Path, turbo_lora: Path | None, schedule: str | None = None) -> Source:
    """A model's parts, from a checkpoint in diffusers layout or from a prepared folder.

    Args:
        folder: where it lies, or its id on the Hugging Face hub.
        turbo_lora: to fuse into a checkpoint.
        schedule: as `--schedule` names it; None: what the Turbo LoRA was trained on.

    Raises:
        ModelError: it is neither, or preparing it was broken off, or it has a Turbo LoRA or another
            schedule already.
    """
    folder = locate(folder)
    if (folder / UNFINISHED).is_file():
        raise ModelError(
            f"preparing {folder} was broken off: run `wuliart-server prepare` again to go on"
        )
    if not is_prepared(folder):
        return StockSource(Checkpoint(folder), turbo_lora, schedule)
    source = PreparedSource(folder)
    if turbo_lora is not None:
        raise ModelError(
            f"{folder} was prepared with {source.turbo_lora or 'no Turbo LoRA'}: leave "
            "--turbo-lora out, or prepare it again with another"
        )
    if schedule is not None and not source.has_schedule(schedule):
        raise ModelError(
            f"{folder} was prepared for the schedule {source.schedule.schedule}: leave --schedule "
            "out, or prepare it again with another"
        )
    return source


def load_model(
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    name: str | None = None,
    memory: Memory = UNLIMITED,
    weights: WeightKind | None = None,
) -> LoadedModel:
    """Loads everything an image needs and nothing else, where the memory plan puts it.

    Raises:
        ModelError: a component is missing, damaged, or of another model; or the budget is too
            small for it.
    """
    started = time.perf_counter()
    config = TransformerConfig.from_json(source.config("transformer"))
    text_config = TextConfig.from_json(source.config("text_encoder"))
    vae_config = VaeConfig.from_json(source.config("vae"))
    schedules = ScheduleTable.build(source.schedule.schedule)
    _tell(source.schedule, schedules)
    latent_size = IMAGE_SIZE // vae_config.spatial_factor
    grid = (latent_size // config.patch, latent_size // config.patch)
    tokenizer = PromptTokenizer(source.folder)
    text_edges = source.text_edges()
    if tokenizer.largest_id >= (rows := len(text_edges.embedding)):
        raise ModelError(
            f"{source.folder}: the tokenizer gives ids up to {tokenizer.largest_id:,}, the text "
            f"encoder's embedding has {rows:,} rows: they are of different models"
        )
    table, condition = source.tables(config, schedules.rows)
    modulation = table.to(device)
    vae = VaeDecoder(vae_config, source.vae(), device, dtype)
    preview = preview_projection(source.folder / "vae", vae, device)
    edges = EdgeWeights(*(weight.to(device=device, dtype=dtype) for weight in source.edges()))

    def slot_bytes(rank: int) -> int:
        return slot_layout(config, schedules, dtype, rank).slot_bytes

    room = choose_room(memory.budget, slot_bytes, memory.slots, memory.max_rank, memory.pinned)
    slots_bytes = room.allocated * slot_bytes(room.max_rank)
    kind = kind_of(source, device, weights)
    layers = layer_fields(text_config, dtype)
    always = modulation.nbytes + vae.nbytes + edges.nbytes

    def planned(rank: int) -> tuple[Fields, MemoryPlan]:
        blocks = block_fields(config, dtype, kind, rank)
        demand = Demand(
            always=always + PROMPT_CACHE_BYTES + runtime_bytes(device),
            slots=slots_bytes,
            **scratch_bytes(device),
            block=packing.nbytes(blocks) + window_bytes(config, rank, dtype),
            blocks=config.blocks,
            text_layer=packing.nbytes(layers),
            text_layers=text_config.layers,
        )
        return blocks, make_plan(demand, memory.budget, memory.idle)

    rank = 0
    blocks, plan = planned(rank)
    if not plan.streamed_blocks and kind is WeightKind.BF16:
        # Where blocks are streamed, copies hide what adapters cost, and room would be copied too.
        most = min(FOLDED * room.max_rank, LARGEST_FOLD)
        with suppress(ModelError):
            roomy, plan_with_room = planned(most)
            if not plan_with_room.streamed_blocks:
                rank, blocks, plan = most, roomy, plan_with_room
    log.info("adapters: %d resident at once, rank up to %d", *room)
    for segment in plan.segments():
        log.info("memory: %-28s %9.1f MB", segment.name, segment.nbytes / 1e6)
    log.info("memory: %.2f GB idle, %.2f GB at most", plan.idle / 1e9, plan.peak / 1e9)
    if memory.budget is not None and device.type == "cuda":
        limit_allocator(device, memory.budget)
    of_blocks, of_text = streaming_of(plan, device)
    transformer = load_transformer(
        config,
        edges,
        partial(source.fill_block, blocks),
        grid=grid,
        device=device,
        dtype=dtype,
        kind=kind,
        streaming=of_blocks,
        rank=rank,
    )
    text_encoder = load_text_encoder(
        text_config,
        *text_edges,
        fill=partial(source.fill_text_layer, layers),
        device=device,
        dtype=dtype,
        streaming=of_text,
    )
    shared = images_per_step(
        plan, step_flops(config, grid[0] * grid[1]), lambda: measure(device, dtype)
    )
    log.info("images that share a step: %d", shared)
    log.info("loaded %s in %.1f s", source.folder, time.perf_counter() - started)
    return LoadedModel(
        name=name or source.folder.name,
        parameters=source.parameters,
        turbo_lora=source.turbo_lora,
        device=device,
        dtype=dtype,
        latent_size=latent_size,
        plan=plan,
        transformer=transformer,
        modulation=modulation,
        conditioning=condition,
        adapter_capacity=room,
        images_per_step=shared,
        schedule=source.schedule,
        schedules=schedules,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        preview=preview,
    )


def _tell(chosen: ChosenSchedule, table: ScheduleTable) -> None:
    """Logs the noise levels, and why these."""
    levels = ", ".join(f"{level:.4g}" for level in table.sigmas[chosen.schedule.steps])
    log.info("schedule %s: %s; noise levels %s", chosen.schedule, chosen.why, levels)
    if chosen.warning:
        log.warning("%s", chosen.warning)


def kind_of(source: Source, device: torch.device, asked: WeightKind | None) -> WeightKind:
    """How the blocks' matrices will lie in memory.

    Raises:
        ModelError: the source has another kind, or the card does not multiply it.
    """
    if asked and source.kind and asked is not source.kind:
        raise ModelError(
            f"{source.folder} was prepared with {source.kind} weights, not {asked}: leave "
            "--weights out, or prepare it again"
        )
    kind = asked or source.kind or WeightKind.BF16
    if kind is WeightKind.FP8 and device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability < FP8_CAPABILITY:
            raise ModelError(
                "--weights fp8 needs a card of compute capability 8.9 (Ada, Hopper) or later; "
                f"this one has {capability[0]}.{capability[1]}: use bf16"
            )
    return kind
