"""One GPU of the fleet: an engine, its adapter segment and its LoRA manager, as a Serve replica.

The front sends requests, which go to the same scheduler as in a single server, and receives reports
of adapters and metrics. Tokens and limits of clients are checked in the front.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ray import serve

from inference_server import assembly
from inference_server.adapters.records import Adapter, AdapterState
from inference_server.config import Config
from inference_server.engine.engine import Engine
from inference_server.errors import RequestError, ServerError
from inference_server.ray_app.arguments import configure_process
from inference_server.ray_app.manager_process import ManagerProcess
from inference_server.ray_app.names import FRONT, handle_of
from inference_server.ray_app.wire import Accepted, Failure, Item, Response
from inference_server.scheduler.device_thread import device_thread
from inference_server.service.image_generation import server_info, submit
from inference_server.service.request_ids import begin_request
from inference_server.service.server_metrics import metrics_of
from wuliart.v1.image_generation_pb2 import GenerateImageRequest

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 1.0
"""Time between two reports while nothing changes: a front that has restarted needs them."""

FIRST_REPORT_SECONDS: Final = 30.0
"""Longest wait for the manager's first catalog before the replica takes requests."""


class Replica:
    """The deployment's class; see `app` for its options.

    Args:
        arguments: options of `wuliart-server` for the model and its memory; those for the network
            are ignored.
        loras: directory of adapters.
        manager_arguments: options of `wuliart-lora-manager`.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, arguments: Sequence[str], loras: str, manager_arguments: Sequence[str] = ()
    ) -> None:
        self._name = serve.get_replica_context().replica_id.unique_id
        self._stack = AsyncExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wuliart-replica-"))
        config = replace(configure_process(arguments, "wuliart-replica"), runtime_dir=Path(folder))
        thread = device_thread()
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(thread, self.load, config)
        self._backend = await self._stack.enter_async_context(
            assembly.run_backend(config, engine, thread)
        )
        manager = ManagerProcess(Path(loras), config.runtime_dir, manager_arguments)
        self._stack.push_async_callback(manager.stop)
        await self._first_report()
        self._reporting = asyncio.create_task(self._report())
        self._stack.callback(self._reporting.cancel)

    def load(self, config: Config) -> Engine:
        """Loads the engine; called on the device thread."""
        return assembly.load_engine(config, assembly.choose_model(config))

    async def generate(
        self,
        request: bytes,
        metadata: Iterable[tuple[str, str]],
        client: str,
        adapters: Sequence[str],
    ) -> AsyncIterator[Item]:
        """Generates one image.

        Args:
            request: a serialized `GenerateImageRequest` with its seed set.
            metadata: request id and trace context, from `outgoing_metadata`.
            client: identity of the client, for the fair queue.
            adapters: names of the request's adapters, for the router.
        """
        begin_request(metadata)
        slots = self._backend.adapters.slots
        yield Accepted(self._name, all(slots.published(name) is not None for name in adapters))
        try:
            message = GenerateImageRequest.FromString(request)
            accepted = submit(self._backend, message, client)
        except RequestError as error:
            log.info("refused: %s", error.reason)
            self._backend.scheduler.metrics.fail(error.reason)
            yield Failure.of(error)
            return
        try:
            # Closed when the front cancels the call, too.
            async with aclosing(accepted) as responses:
                async for response in responses:
                    yield Response(response.SerializeToString())
        except RequestError as error:
            yield Failure.of(error)

    async def info(self) -> bytes:
        """Returns a serialized `GetServerInfoResponse`."""
        message: bytes = server_info(self._backend).SerializeToString()
        return message

    def record_routing_stats(self) -> dict[str, Any]:
        """Returns the names of the adapters in memory, which Serve passes to the router."""
        return {"resident": [a.entry.name for a in self._resident()]}

    def check_health(self) -> None:
        """Called by Serve, which replaces the replica if this raises."""
        if self._reporting.done():
            raise ServerError("this replica no longer reports its adapters; see its log")

    async def __del__(self) -> None:
        await self._stack.aclose()

    # -- adapters -----------------------------------------------------------------------------

    def _resident(self) -> list[Adapter]:
        adapters = self._backend.adapters.catalog.adapters
        return [a for a in adapters if a.state is AdapterState.RESIDENT]

    async def _first_report(self) -> None:
        store = self._backend.adapters
        try:
            async with asyncio.timeout(FIRST_REPORT_SECONDS):
                # A request must not fail here because a file that other replicas have read is
                # still being read.
                while not store.reported or store.pending:
                    await store.changed.wait()
        except TimeoutError:
            log.warning("no LoRA manager has attached yet; no adapter can be used until one does")

    async def _report(self) -> None:
        """Reports to the front at each change, and every second."""
        store, reported = self._backend.adapters, -1
        front = handle_of(FRONT)
        while True:
            changed = store.changed
            try:
                metrics = list(metrics_of(self._backend))
                missing = await front.report.remote(
                    self._name,
                    managed=store.manager_attached,
                    adapters=store.catalog.adapters,
                    metrics=metrics,
                )
                reported = store.catalog.revision
                if jpegs := [j for h in missing if (j := store.catalog.thumbnails.jpeg(h))]:
                    await front.put_thumbnails.remote(jpegs)
            except Exception as error:
                log.info("the front does not answer: %s", error)
            if reported == store.catalog.revision:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_SECONDS):
                        await changed.wait()
            else:
                await asyncio.sleep(REPORT_SECONDS / 4)
