"""From settings to a backend that generates, and to its end: everything but who may call it.

Owns the loading of the engine and the wiring of scheduler, adapters and the LoRA manager's sockets.
Knows nothing of listeners for clients; a server process and a replica of a fleet both begin here.
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
from inference_server.loading.load import Memory, load_model, open_source
from inference_server.model.weights.source import Source
from inference_server.scheduler.scheduler import Scheduler
from inference_server.service.backend import Backend
from inference_server.service.descriptor_socket import DescriptorSocket
from inference_server.service.listeners import ControlListener
from inference_server.service.recipe import describer
from inference_server.service.segment import Segment
from wuliart_process.sockets import CONTROL_SOCKET, DESCRIPTOR_SOCKET


@dataclass(frozen=True, slots=True)
class Choice:
    """What is loaded, and where to."""

    source: Source
    device: torch.device
    dtype: torch.dtype


def choose(config: Config) -> Choice:
    """Looks at the checkpoint and the machine; loads nothing.

    Raises:
        ModelError: one of them cannot be used; the message is for the operator.
    """
    return Choice(
        open_source(config.model, config.turbo_lora, config.schedule), *choose_device(config)
    )


def choose_device(config: Config) -> tuple[torch.device, torch.dtype]:
    """Where to run, and in which dtype: bf16 on a GPU, float32 on a CPU unless told otherwise.

    Raises:
        ModelError: the device does not exist here.
    """
    wanted = config.device
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(wanted)
    except RuntimeError:
        raise ModelError(f"--device {wanted!r} is none; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ModelError("--device cuda: PyTorch sees no GPU here; check the driver, or use cpu")
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", torch.cuda.current_device())
    if config.dtype == "auto":
        return device, torch.bfloat16 if device.type == "cuda" else torch.float32
    return device, torch.float32 if config.dtype == "float32" else torch.bfloat16


def load(config: Config, choice: Choice) -> Engine:
    """The engine, ready to generate at its usual pace; to be called on the device thread."""
    device = choice.device
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread, on which everything runs
    name = "embedded" if config.embedded else config.model.name
    budget = config.vram_budget
    if budget is None and device.type == "cuda":
        # CUDA's own share is gone already and counted in the plan again: that is the margin.
        budget, _ = torch.cuda.mem_get_info(device)
    pinned = len(config.pinned_adapters)
    memory = Memory(budget, config.idle_vram, config.slots, config.max_rank, pinned)
    model = load_model(choice.source, device, choice.dtype, name, memory, config.weights)
    engine = Engine(model)
    if device.type == "cuda":
        # A CPU has no kernels to choose.
        engine.warm_up()
    # What was imported and loaded stays: a collection that walks all of it takes 0.1 s.
    gc.freeze()
    gc.enable()
    return engine


@asynccontextmanager
async def running(
    config: Config, engine: Engine, thread: ThreadPoolExecutor
) -> AsyncIterator[Backend]:
    """Everything around the engine; at the end accepted images get `config.grace` seconds."""
    room = engine.model.adapter_capacity
    layout = engine.model.layout(room.max_rank)
    segment = await asyncio.to_thread(AdapterSegment, layout, room.allocated, engine.model.device)
    store = AdapterStore(segment, room.slots, config.pinned_adapters)
    binder = Binder(store, skip_bad=config.on_bad_adapter is OnBadAdapter.SKIP)
    describe = describer(engine.model.name, str(engine.model.schedule.schedule))
    batch = config.max_batch or engine.model.images_per_step
    scheduler = Scheduler(engine, binder, config.queue, thread, describe, batch, config.log_prompts)
    descriptors = DescriptorSocket(
        config.runtime_dir / DESCRIPTOR_SOCKET,
        lambda: segment.descriptor,
        store.writer_is_gone,
    )
    conditioning = engine.model.conditioning.numpy().astype("<f4").tobytes()
    control = ControlListener(
        config.runtime_dir / CONTROL_SOCKET, Segment(store, descriptors, conditioning)
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
