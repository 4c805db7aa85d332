"""Runs the server process: listen, load, serve, drain."""

from __future__ import annotations

import asyncio
import logging
import os
from concurrent.futures import ThreadPoolExecutor

from inference_server import assembly, runtime_dir
from inference_server.config import Config
from inference_server.engine.engine import Engine
from inference_server.network import Network
from inference_server.scheduler.device_thread import device_thread
from inference_server.service.adapter_service import AdapterServicer
from inference_server.service.backend import BackendHolder
from inference_server.service.exporter import start_exporter
from inference_server.service.image_generation import BackendImageServicer
from inference_server.service.listeners import PublicListener
from inference_server.service.server_metrics import metrics_of
from wuliart_process.exposure import reaches_other_machines

log = logging.getLogger(__name__)


STREAM_GRACE_SECONDS = 1.0
"""Time for clients to read their last image after the drain."""


async def serve(config: Config, stopping: asyncio.Event) -> None:
    """Runs the server until `stopping` is set.

    Raises:
        ServerError: it cannot start; the message is for the operator.
    """
    choice = assembly.choose_model(config)
    lock = runtime_dir.claim(config.runtime_dir)
    holder = BackendHolder()
    public = PublicListener(
        config.network,
        images=BackendImageServicer(holder),
        adapters=AdapterServicer(holder.adapters),
        on_reject=holder.count_error,
    )
    await public.start()
    try:
        log.info("loading %s on %s in %s", config.model, choice.device, choice.dtype)
        thread = device_thread()
        loop = asyncio.get_running_loop()
        loading = loop.run_in_executor(thread, assembly.load_engine, config, choice)
        stop = asyncio.ensure_future(stopping.wait())
        await asyncio.wait((loading, stop), return_when=asyncio.FIRST_COMPLETED)
        if loading.done():
            engine = loading.result()
            await _serve_loaded(config, engine, thread, public, holder, stopping)
    finally:
        await public.stop(STREAM_GRACE_SECONDS)
        os.close(lock)
    log.info("stopped")


async def _serve_loaded(
    config: Config,
    engine: Engine,
    thread: ThreadPoolExecutor,
    public: PublicListener,
    holder: BackendHolder,
    stopping: asyncio.Event,
) -> None:
    """Serves with the loaded model until the end of the drain."""
    stop_exporter = None
    async with assembly.run_backend(config, engine, thread) as backend:
        if config.metrics:
            stop_exporter = start_exporter(
                config.metrics, lambda: metrics_of(backend), config.network.allowed_hosts
            )
        holder.fill(backend)
        public.ready()
        log.info("ready on %s%s", config.network.listen, _access(config.network))
        await stopping.wait()
        log.info("draining; accepted images get %.0f s", config.grace)
        public.draining()
    if stop_exporter is not None:
        await asyncio.to_thread(stop_exporter)


def _access(network: Network) -> str:
    """Describes for the log how access to the port is restricted."""
    means = [
        "TLS" if network.tls_cert else "",
        "client certificates" if network.tls_client_ca else "",
        "tokens" if network.tokens else "",
    ]
    if any(means):
        return " with " + ", ".join(filter(None, means))
    return ", open to everyone who can reach it" if reaches_other_machines(network.listen) else ""
