"""The real server on a thread of this process, so that one clock times both sides of a call."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from inference_server import server as server_module
from inference_server.config import Config
from inference_server.network import Network
from inference_server.service.backend import Backend, BackendHolder
from scripts.processes import Service


@contextmanager
def live_server(folder: Path) -> Iterator[tuple[str, Backend]]:
    """Yields the address and the parts of a running server on the embedded model."""
    service = Service(folder / "run", folder / "loras")
    network = Network(service.listen)
    config = replace(Config(), network=network, runtime_dir=service.runtime_dir, grace=5.0)
    backends: list[Backend] = []
    fill = BackendHolder.fill

    def keep(self: BackendHolder, backend: Backend) -> None:
        fill(self, backend)
        backends.append(backend)

    BackendHolder.fill = keep  # type: ignore[method-assign]
    loop = asyncio.new_event_loop()
    stopping = asyncio.Event()

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_until_complete(server_module.serve(config, stopping))

    thread = threading.Thread(target=run, name="server")
    thread.start()
    try:
        service.wait_until_ready()
        yield service.listen, backends[0]
    finally:
        BackendHolder.fill = fill  # type: ignore[method-assign]
        loop.call_soon_threadsafe(stopping.set)
        thread.join()
        loop.close()
