"""One GPU of the fleet: an engine, its segment and its LoRA manager, as a replica of Ray Serve.

Owns the life of all three, and what the front is told of its adapters. Requests come from the front
and are handed to the same scheduler that a single server has; who may call is the front's business.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from ray import serve

from inference_server import assembly
from inference_server.adapters.records import Adapter, AdapterState
from inference_server.config import Config
from inference_server.engine.engine import Engine
from inference_server.errors import RequestError, ServerError
from inference_server.logs import REQUEST_ID
from inference_server.ray_app.arguments import parsed
from inference_server.ray_app.manager_process import ManagerProcess
from inference_server.ray_app.names import FRONT, handle_of
from inference_server.ray_app.wire import Event, Failed, Taken
from inference_server.scheduler.device_thread import device_thread
from inference_server.service.image_generation import describe, message_of
from inference_server.service.request_ids import take_up
from inference_server.service.server_metrics import metrics_of
from inference_server.service.validation import validate
from wuliart.v1.image_generation_pb2 import GenerateImageRequest

log = logging.getLogger(__name__)

REPORT_SECONDS: Final = 1.0
"""Between two reports where nothing has changed: a front that was started again knows nothing."""

FIRST_REPORT_SECONDS: Final = 30.0
"""A replica takes requests once its manager has told what there is."""


class Replica:
    """The deployment's class; see `app` for its options.

    Args:
        arguments: of `wuliart-server`: the model and its memory. What it says of the network is the
            front's.
        loras: the directory of adapters.
        manager_arguments: of `wuliart-lora-manager`.
    """

    async def __init__(  # type: ignore[misc]  # Serve awaits it
        self, arguments: Sequence[str], loras: str, manager_arguments: Sequence[str] = ()
    ) -> None:
        self._name = serve.get_replica_context().replica_id.unique_id
        self._stack = AsyncExitStack()
        folder = self._stack.enter_context(tempfile.TemporaryDirectory(prefix="wuliart-replica-"))
        config = replace(parsed(arguments, "wuliart-replica"), runtime_dir=Path(folder))
        thread = device_thread()
        loop = asyncio.get_running_loop()
        engine = await loop.run_in_executor(thread, self.load, config)
        self._backend = await self._stack.enter_async_context(
            assembly.running(config, engine, thread)
        )
        manager = ManagerProcess(Path(loras), config.runtime_dir, manager_arguments)
        self._stack.push_async_callback(manager.stop)
        await self._first_report()
        self._reporting = asyncio.create_task(self._report())
        self._stack.callback(self._reporting.cancel)

    def load(self, config: Config) -> Engine:
        """The engine; on the device thread."""
        return assembly.load(config, assembly.choose(config))

    async def draw(
        self,
        request: bytes,
        metadata: Iterable[tuple[str, str]],
        client: str,
        adapters: Sequence[str],
    ) -> AsyncIterator[Taken | Event | Failed]:
        """One image.

        Args:
            request: a serialized `GenerateImageRequest`, its seed filled in.
            metadata: the id and the trace that it goes by.
            client: who asks; clients take turns.
            adapters: names of the request's adapters; for the router.
        """
        take_up(metadata)
        slots = self._backend.adapters.slots
        yield Taken(self._name, all(slots.published(name) is not None for name in adapters))
        try:
            job = self._backend.scheduler.submit(
                validate(GenerateImageRequest.FromString(request), self._backend.counts),
                REQUEST_ID.get(),
                client,
            )
        except RequestError as error:
            log.info("refused: %s", error.reason)
            self._backend.scheduler.metrics.fail(error.reason)
            yield Failed.of(error)
            return
        try:
            async for event in job.events():
                yield Event(message_of(event).SerializeToString())
        except RequestError as error:
            yield Failed.of(error)
        finally:
            # Reached when the front cancels the call, too.
            self._backend.scheduler.cancel(job)

    async def info(self) -> bytes:
        """A serialized `GetServerInfoResponse`, as of a single server."""
        message: bytes = describe(self._backend).SerializeToString()
        return message

    def record_routing_stats(self) -> dict[str, Any]:
        """What Serve tells routers: names of the adapters in memory."""
        return {"resident": [a.entry.name for a in self._resident()]}

    def check_health(self) -> None:
        """Serve starts another replica if this raises."""
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
                # What other replicas generate must not be "still being read" here.
                while not store.reported or store.pending:
                    await store.changed.wait()
        except TimeoutError:
            log.warning("no LoRA manager yet; generating without adapters until it is there")

    async def _report(self) -> None:
        """Tells the front at each change, and now and then."""
        store, told = self._backend.adapters, -1
        front = handle_of(FRONT)
        while True:
            changed = store.changed
            try:
                metrics = list(metrics_of(self._backend))
                await front.report.remote(
                    self._name, store.manager_attached, store.catalog.adapters, metrics
                )
                told = store.catalog.revision
            except Exception as error:
                log.info("the front does not answer: %s", error)
            if told == store.catalog.revision:
                with suppress(TimeoutError):
                    async with asyncio.timeout(REPORT_SECONDS):
                        await changed.wait()
            else:
                await asyncio.sleep(REPORT_SECONDS / 4)
