"""Loads a model: everything that one image needs, on one device, where the memory plan puts it."""

from __future__ import annotations

import logging
import time
from functools import partial

import torch

from inference_server.engine.loaded_model import LoadedModel, slot_layout
from inference_server.errors import ModelError
from inference_server.loading.batch_limit import images_per_step, measure, step_flops
from inference_server.loading.memory_sizes import limit_allocator, streaming_of
from inference_server.loading.model_plan import UNLIMITED, MemoryLimits, ModelPlan, plan_model
from inference_server.loading.sources import choose_weight_kind
from inference_server.model.preview import preview_projection
from inference_server.model.prompt import PromptTokenizer
from inference_server.model.schedule import ScheduleTable
from inference_server.model.schedule_choice import ChosenSchedule
from inference_server.model.text_encoder import TextConfig
from inference_server.model.transformer_weights import EdgeWeights, TransformerConfig
from inference_server.model.vae import VaeConfig, VaeDecoder
from inference_server.model.weights.source import Source
from inference_server.model.weights.text_encoder import load_text_encoder
from inference_server.model.weights.transformer import load_transformer
from inference_server.weight_kind import WeightKind
from wuliart_contract.limits import IMAGE_SIZE

log = logging.getLogger(__name__)


def load_model(
    source: Source,
    device: torch.device,
    dtype: torch.dtype,
    *,
    name: str | None = None,
    limits: MemoryLimits = UNLIMITED,
    weights: WeightKind | None = None,
) -> LoadedModel:
    """Loads a model.

    Args:
        source: where its weights come from.
        device: where it will compute.
        dtype: of activations, and of weights that are not quantized.
        name: shown to clients; None: the source's.
        limits: the operator's limits for device memory and adapters.
        weights: how the blocks' matrices shall be stored; None: as the source has them.

    Raises:
        ModelError: a component is missing, damaged, or of another model; or the limits are too
            small for it.
    """
    started = time.perf_counter()
    config = TransformerConfig.from_json(source.config("transformer"))
    text_config = TextConfig.from_json(source.config("text_encoder"))
    vae_config = VaeConfig.from_json(source.config("vae"))
    schedules = ScheduleTable.build(source.schedule.schedule)
    _log_schedule(source.schedule, schedules)
    latent_size = IMAGE_SIZE // vae_config.spatial_factor
    grid = (latent_size // config.patch, latent_size // config.patch)
    tokenizer = PromptTokenizer(source)
    text_edges = source.text_edges()
    if tokenizer.largest_id >= (rows := len(text_edges.embedding)):
        raise ModelError(
            f"{source.where}: the tokenizer gives ids up to {tokenizer.largest_id:,}, the text "
            f"encoder's embedding has {rows:,} rows: they are of different models"
        )
    table, condition = source.tables(config, schedules.rows)
    modulation = table.to(device)
    vae = VaeDecoder(vae_config, source.vae(), device, dtype)
    preview = preview_projection(source, vae, device)
    edges = EdgeWeights(*(weight.to(device=device, dtype=dtype) for weight in source.edges()))

    kind = choose_weight_kind(source, device, weights)
    log.info("weights: %s", kind)
    remarks = tuple(source.remarks(kind))
    for remark in remarks:
        log.log(logging.WARNING if remark.warning else logging.INFO, "%s", remark.text)
    plan = plan_model(
        config,
        text_config,
        unmoved=modulation.nbytes + vae.nbytes + edges.nbytes,
        slot_bytes=lambda rank: slot_layout(config, schedules, dtype, rank).slot_bytes,
        device=device,
        dtype=dtype,
        kind=kind,
        limits=limits,
    )
    _log_plan(plan)
    if limits.budget is not None and device.type == "cuda":
        limit_allocator(device, limits.budget)
    of_blocks, of_text = streaming_of(plan.memory, device)
    transformer = load_transformer(
        config,
        edges,
        partial(source.fill_block, plan.block),
        grid=grid,
        device=device,
        dtype=dtype,
        kind=kind,
        streaming=of_blocks,
        rank=plan.folded_rank,
    )
    text_encoder = load_text_encoder(
        text_config,
        *text_edges,
        fill=partial(source.fill_text_layer, plan.text_layer),
        device=device,
        dtype=dtype,
        streaming=of_text,
    )
    shared = images_per_step(
        plan.memory, step_flops(config, grid[0] * grid[1]), lambda: measure(device, dtype, kind)
    )
    log.info("images that share a step: %d", shared)
    log.info("loaded %s in %.1f s", source.where, time.perf_counter() - started)
    return LoadedModel(
        name=name or source.name,
        parameters=source.parameters,
        turbo_lora=source.turbo_lora,
        device=device,
        dtype=dtype,
        latent_size=latent_size,
        plan=plan.memory,
        transformer=transformer,
        modulation=modulation,
        conditioning=condition,
        adapter_capacity=plan.capacity,
        remarks=remarks,
        images_per_step=shared,
        schedule=source.schedule,
        schedules=schedules,
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        preview=preview,
    )


def _log_schedule(chosen: ChosenSchedule, table: ScheduleTable) -> None:
    """Logs the noise levels and the reason for them."""
    levels = ", ".join(f"{level:.4g}" for level in table.sigmas[chosen.schedule.steps])
    log.info("schedule %s: %s; noise levels %s", chosen.schedule, chosen.why, levels)
    if chosen.warning:
        log.warning("%s", chosen.warning)


def _log_plan(plan: ModelPlan) -> None:
    log.info("adapters: %d resident at once, rank up to %d", *plan.capacity)
    memory = plan.memory
    for segment in memory.segments():
        log.info("memory: %-28s %9.1f MB", segment.name, segment.nbytes / 1e6)
    log.info("memory: %.2f GB idle, %.2f GB at most", memory.idle / 1e9, memory.peak / 1e9)
