"""The front of the fleet: serves the public contract on one address, on behalf of all replicas.

A deployment that listens by itself, with the listener of the single server. Serve's own gRPC
ingress would lose the trailing metadata of a failed call, and has neither initial metadata nor
`grpc.health.v1`.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Iterable, Sequence
from contextlib import AsyncExitStack
from typing import Final, NamedTuple

from prometheus_client.metrics_core import Metric

from inference_server.adapters.changes import WatchedAdapters
from inference_server.adapters.records import Adapter
from inference_server.errors import ServerError
from inference_server.ray_app.arguments import configure_process
from inference_server.ray_app.fleet_catalog import FleetCatalog
from inference_server.ray_app.fleet_image_generation import FleetImageServicer, starting
from inference_server.ray_app.fleet_metrics import FRONT_LABEL, merged, metrics_of_front
from inference_server.ray_app.names import REPLICA, handle_of
from inference_server.ray_app.replica_calls import ReplicaCalls
from inference_server.service.adapter_service import AdapterServicer
from inference_server.service.exporter import start_exporter
from inference_server.service.listeners import PublicListener

log = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 5.0
"""A replica that has not reported for this long is forgotten; replicas report every second."""

GRACE_SECONDS: Final = 30.0


class _Report(NamedTuple):
    """The last report of a replica."""

    received_at: float
    """Seconds of the event loop's clock."""
    managed: bool
    """True if the replica's LoRA manager is attached."""
    metrics: Sequence[Metric]


class Front:
    """The deployment's class; see `app` for its options.

    Args:
        network: options of `wuliart-server`: `--listen`, TLS, tokens, limits, `--queue`,
            `--metrics`.
    """

    async def __init__(self, network: Sequence[str]) -> None:  # type: ignore[misc]
        self._stack = AsyncExitStack()
        config = configure_process(network, "wuliart-front")
        self._queue = config.queue
        self._catalog = FleetCatalog()
        self._reports: dict[str, _Report] = {}
        self._loop = asyncio.get_running_loop()
        self._replicas = ReplicaCalls(handle_of(REPLICA))
        if config.metrics:
            stop = start_exporter(config.metrics, self._metrics, config.network.allowed_hosts)
            self._stack.push_async_callback(asyncio.to_thread, stop)
        images = FleetImageServicer(self._replicas, self._managed, config.queue)
        self._listener = PublicListener(
            config.network,
            images=images,
            adapters=AdapterServicer(self._adapters),
            on_reject=images.refused,
        )
        await self._listener.start()
        self._stack.push_async_callback(self._listener.stop, GRACE_SECONDS)
        self._stack.callback(self._listener.draining)
        self._serving = False
        self._watching = asyncio.create_task(self._watch())
        self._stack.callback(self._watching.cancel)
        # A collection that walks all imported objects would delay every stream.
        gc.freeze()

    async def report(
        self,
        replica: str,
        *,
        managed: bool,
        adapters: Iterable[Adapter],
        metrics: Sequence[Metric],
    ) -> list[str]:
        """Takes a replica's report; each replica sends one every second.

        Args:
            replica: name of the replica.
            managed: True if its LoRA manager is attached.
            adapters: everything in its catalog.
            metrics: all its metrics.

        Returns:
            Hashes of adapters' thumbnails that the front lacks.
        """
        self._reports[replica] = _Report(self._loop.time(), managed, metrics)
        self._catalog.report(replica, adapters)
        if not self._serving:
            self._serving = True
            self._listener.ready()
            log.info("the first replica is ready")
        return self._catalog.thumbnails.missing

    async def put_thumbnails(self, jpegs: Sequence[bytes]) -> None:
        """Takes thumbnails that it lacked."""
        self._catalog.put_thumbnails(jpegs)

    async def counts(self) -> dict[str, int]:
        """Returns the number of replicas that report, and the counters since the front's start."""
        counts = self._replicas.counts
        return {
            "replicas": len(self._reports),
            "requests": counts.requests,
            "resident": counts.resident,
            "retries": counts.retries,
            **{reason.value: count for reason, count in counts.errors.items()},
        }

    def check_health(self) -> None:
        """Called by Serve, which replaces the front if this raises."""
        if self._watching.done():
            raise ServerError("the front no longer checks on its replicas; see its log")

    async def __del__(self) -> None:
        await self._stack.aclose()

    def _metrics(self) -> Iterable[Metric]:
        own = metrics_of_front(self._catalog, self._replicas, self._queue)
        return merged({FRONT_LABEL: own, **{n: r.metrics for n, r in self._reports.items()}})

    def _managed(self) -> list[bool]:
        return [report.managed for report in self._reports.values()]

    def _adapters(self) -> tuple[WatchedAdapters, str]:
        if not self._serving:
            raise starting()
        return self._catalog, self._catalog.epoch

    async def _watch(self) -> None:
        """Forgets replicas that no longer report."""
        while True:
            await asyncio.sleep(SILENCE_SECONDS / 5)
            oldest = self._loop.time() - SILENCE_SECONDS
            for gone in [n for n, report in self._reports.items() if report.received_at < oldest]:
                del self._reports[gone]
            # With no replica left, the last catalog stays until another one reports.
            if self._reports:
                self._catalog.keep_only(self._reports)
