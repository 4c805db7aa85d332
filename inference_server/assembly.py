"""Builds the engine, scheduler and adapters from the settings, and shuts them down.

A server process and a replica of a fleet both begin here. The listener for clients is not part
of this; the sockets for the LoRA manager are.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass

import torch

from inference_server.adapters.binder import Binder
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.store import AdapterStore
from inference_server.config import Config, OnBadAdapter
from inference_server.engine.engine import Engine
from inference_server.errors import ModelError
from inference_server.loading.load import load_model
from inference_server.loading.model_plan import MemoryLimits
from inference_server.loading.sources import open_source
from inference_server.model.weights.source import Source
from inference_server.scheduler.scheduler import Scheduler
from inference_server.service.backend import Backend
from inference_server.service.descriptor_socket import DescriptorSocket
from inference_server.service.listeners import ControlListener
from inference_server.service.recipe import describer
from inference_server.service.segment_service import SegmentServicer
from wuliart_process.sockets import CONTROL_SOCKET, DESCRIPTOR_SOCKET


@dataclass(frozen=True, slots=True)
class ModelChoice:
    """The model to load, and the device and dtype to load it in."""

    source: Source
    device: torch.device
    dtype: torch.dtype


def choose_model(config: Config) -> ModelChoice:
    """Opens the checkpoint and chooses the device, without loading anything.

    Raises:
        ModelError: the checkpoint or the device cannot be used; the message is for the operator.
    """
    return ModelChoice(
        open_source(config.model, config.turbo_lora, config.schedule, config.parts),
        *choose_device(config),
    )


def choose_device(config: Config) -> tuple[torch.device, torch.dtype]:
    """Returns the device and dtype: by default the GPU in bf16, or a CPU in float32.

    Raises:
        ModelError: the device does not exist here.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ModelError(
            f"--device {name!r} is not a device; use auto, cpu, cuda or cuda:N"
        ) from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: PyTorch sees no GPU here; check the driver, or use cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if config.dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, torch.float32 if config.dtype == "float32" else torch.bfloat16


def load_engine(config: Config, choice: ModelChoice) -> Engine:
    """Loads the model and warms the engine up; to be called on the device thread."""
    device = choice.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # for this thread, which makes every CUDA call
    name = "embedded" if config.embedded else None
    budget = config.vram_budget
    if budget is None and device.type == "cuda":
        # The CUDA context is allocated already and the plan counts it again: that is the margin.
        budget, _ = torch.cuda.mem_get_info(device)
    pinned = len(config.pinned_adapters)
    limits = MemoryLimits(budget, config.idle_vram, config.slots, config.max_rank, pinned)
    model = load_model(
        choice.source, device, choice.dtype, name=name, limits=limits, weights=config.weights
    )
    engine = Engine(model)
    if device.type == "cuda":
        # Only GPU libraries choose kernels at their first call.
        engine.warm_up()
    # Imports and weights are never freed; a collection that walks all of them takes 0.1 s.
    gc.freeze()
    gc.enable()
    return engine


@asynccontextmanager
async def run_backend(
    config: Config, engine: Engine, thread: ThreadPoolExecutor
) -> AsyncIterator[Backend]:
    """Runs adapters, scheduler and the manager's sockets around the engine.

    At the end, running images get `config.grace` seconds.
    """
    capacity = engine.model.adapter_capacity
    layout = engine.model.layout(capacity.max_rank)
    segment = await asyncio.to_thread(
        AdapterSegment, layout, capacity.allocated, engine.model.device
    )
    store = AdapterStore(segment, capacity.slots, config.pinned_adapters)
    binder = Binder(store, skip_bad=config.on_bad_adapter is OnBadAdapter.SKIP)
    scheduler = Scheduler(
        engine,
        binder,
        thread,
        capacity=config.queue,
        describe=describer(engine.model.name, str(engine.model.schedule.schedule)),
        max_batch=config.max_batch or engine.model.images_per_step,
        log_prompts=config.log_prompts,
    )
    descriptors = DescriptorSocket(
        config.runtime_dir / DESCRIPTOR_SOCKET,
        lambda: segment.descriptor,
        store.writer_is_gone,
    )
    conditioning = engine.model.conditioning.numpy().astype("<f4").tobytes()
    control = ControlListener(
        config.runtime_dir / CONTROL_SOCKET, SegmentServicer(store, descriptors, conditioning)
    )
    descriptors.start()
    await control.start()
    try:
        yield Backend(
            engine, store, scheduler, config.embedded, engine.model.schedules.schedule.counts
        )
    finally:
        await scheduler.drain(config.grace)
        await control.stop()
        await descriptors.stop()
