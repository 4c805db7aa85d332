"""The life of the server process: listen, load, serve, drain.

Owns that order and the wiring of the parts; knows nothing of the command line or signals.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from concurrent.futures import ThreadPoolExecutor

import torch

from inference_server import runtime_dir
from inference_server.adapters.binder import Binder
from inference_server.adapters.segment import AdapterSegment
from inference_server.adapters.store import AdapterStore
from inference_server.config import Config, OnBadAdapter
from inference_server.engine.engine import Engine
from inference_server.engine.loading import Memory, load_model, open_source
from inference_server.errors import ModelError
from inference_server.model.source import Source
from inference_server.network import Network
from inference_server.scheduler.device import device_thread
from inference_server.scheduler.scheduler import Scheduler
from inference_server.service.backend import Backend, BackendSlot
from inference_server.service.descriptor_socket import DescriptorSocket
from inference_server.service.exporter import start_exporter
from inference_server.service.listeners import ControlListener, PublicListener
from inference_server.service.recipe import describer
from inference_server.service.segment import Segment
from wuliart.contract.exposure import reaches_strangers
from wuliart.contract.rendezvous import CONTROL_SOCKET, DESCRIPTOR_SOCKET

log = logging.getLogger(__name__)


STREAMING_BATCH = 4

LAST_WORDS_SECONDS = 1.0
"""For callers still reading their last picture when everything else has stopped."""


async def serve(config: Config, stopping: asyncio.Event) -> None:
    """Runs the server until `stopping` is set.

    Raises:
        ServerError: it cannot start; the message is for the operator.
    """
    source = open_source(config.model, config.turbo_lora)
    device, dtype = choose_device(config)
    lock = runtime_dir.claim(config.runtime_dir)
    backend = BackendSlot()
    public = PublicListener(config.network, backend)
    await public.start()
    try:
        log.info("loading %s on %s in %s", config.model, device, dtype)
        thread = device_thread()
        loading = asyncio.get_running_loop().run_in_executor(
            thread, _load_and_warm_up, config, source, device, dtype
        )
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait((loading, stop), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            engine = loading.result()
            await _serve_loaded(config, engine, thread, public, backend, stopping)
    finally:
        await public.stop(LAST_WORDS_SECONDS)
        os.close(lock)
    log.info("stopped")


async def _serve_loaded(
    config: Config,
    engine: Engine,
    thread: ThreadPoolExecutor,
    public: PublicListener,
    backend: BackendSlot,
    stopping: asyncio.Event,
) -> None:
    """From the loaded model to the end of the drain."""
    room = engine.model.room
    layout = engine.model.layout(room.max_rank)
    segment = await asyncio.to_thread(AdapterSegment, layout, room.allocated, engine.model.device)
    store = AdapterStore(segment, room.slots, config.pinned_styles)
    binder = Binder(store, skip_bad=config.on_bad_adapter is OnBadAdapter.SKIP)
    describe = describer(engine.model.name)
    batch = config.max_batch or _batch(engine)
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
    parts = Backend(engine, store, scheduler, config.embedded)
    stop_exporter = start_exporter(config.metrics, parts) if config.metrics else None
    backend.fill(parts)
    await public.ready()
    log.info("ready on %s%s", config.network.listen, _who_may_call(config.network))

    await stopping.wait()
    log.info("draining; accepted pictures get %.0f s", config.grace)
    await public.draining()
    await scheduler.drain(config.grace)
    await control.stop()
    await descriptors.stop()
    if stop_exporter is not None:
        await asyncio.to_thread(stop_exporter)


def _who_may_call(network: Network) -> str:
    """What an operator should know of it, for the log."""
    ways = [
        "TLS" if network.tls_cert else "",
        "client certificates" if network.tls_client_ca else "",
        "tokens" if network.tokens else "",
    ]
    if any(ways):
        return " with " + ", ".join(filter(None, ways))
    return ", open to whoever reaches it" if reaches_strangers(network.listen) else ""


def _batch(engine: Engine) -> int:
    """Pictures that share a step: where weights are streamed, they share the host link's work."""
    return STREAMING_BATCH if engine.model.plan.ring else 1


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


def _load_and_warm_up(
    config: Config, source: Source, device: torch.device, dtype: torch.dtype
) -> Engine:
    """The engine, ready to draw at its usual pace; a CPU has no kernels to choose."""
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of this thread, on which everything runs
    name = "embedded" if config.embedded else config.model.name
    budget = config.vram_budget
    if budget is None and device.type == "cuda":
        # CUDA's own share is gone already and counted in the plan again: that is the margin.
        budget, _ = torch.cuda.mem_get_info(device)
    pinned = len(config.pinned_styles)
    memory = Memory(budget, config.idle_vram, config.slots, config.max_rank, pinned)
    engine = Engine(load_model(source, device, dtype, name, memory, config.weights))
    if device.type == "cuda":
        engine.warm_up()
    # What was imported and loaded stays: a collection that walks all of it takes 0.1 s.
    gc.freeze()
    gc.enable()
    return engine
