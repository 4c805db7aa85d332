"""The door of the fleet: the public contract on one address, in front of all replicas.

Serve's own gRPC ingress cannot keep what a failed call says (its trailing metadata are lost with
the exception), has no initial metadata and no `grpc.health.v1`; so this is a deployment that
listens by itself, with the single server's own listener. Owns what a request goes through before
and after its replica; which one generates is the router's choice.
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
from inference_server.ray_app.arguments import parsed
from inference_server.ray_app.fleet import Fleet
from inference_server.ray_app.fleet_images import FleetImages, starting
from inference_server.ray_app.fleet_metrics import FRONT_LABEL, merged, metrics_of_front
from inference_server.ray_app.names import REPLICA, handle_of
from inference_server.ray_app.replica_calls import ReplicaCalls
from inference_server.service.adapters import Adapters
from inference_server.service.exporter import start_exporter
from inference_server.service.listeners import PublicListener

log = logging.getLogger(__name__)

SILENCE_SECONDS: Final = 5.0
"""Without a report a replica is gone: they report every second."""

GRACE_SECONDS: Final = 30.0


class _Heard(NamedTuple):
    """Of a replica, lately."""

    when: float
    managed: bool
    metrics: Sequence[Metric]


class Front:
    """The deployment's class; see `app` for its options.

    Args:
        network: of `wuliart-server`: `--listen`, TLS, tokens, limits, `--queue`, `--metrics`.
    """

    async def __init__(self, network: Sequence[str]) -> None:  # type: ignore[misc]
        self._stack = AsyncExitStack()
        config = parsed(network, "wuliart-front")
        self._queue = config.queue
        self._fleet = Fleet()
        self._heard: dict[str, _Heard] = {}
        self._loop = asyncio.get_running_loop()
        self._replicas = ReplicaCalls(handle_of(REPLICA))
        if config.metrics:
            stop = start_exporter(config.metrics, self._metrics, config.network.allowed_hosts)
            self._stack.push_async_callback(asyncio.to_thread, stop)
        images = FleetImages(self._replicas, self._managed, config.queue)
        self._listener = PublicListener(
            config.network, images, Adapters(self._adapters), images.refused
        )
        await self._listener.start()
        self._stack.push_async_callback(self._listener.stop, GRACE_SECONDS)
        self._stack.callback(self._listener.draining)
        self._serving = False
        self._watching = asyncio.create_task(self._watch())
        self._stack.callback(self._watching.cancel)
        # What was imported stays: a collection that walks all of it holds every stream up.
        gc.freeze()

    async def report(
        self,
        replica: str,
        managed: bool,
        adapters: Iterable[Adapter],
        metrics: Sequence[Metric],
    ) -> None:
        """A replica tells what it knows; it does so every second."""
        self._heard[replica] = _Heard(self._loop.time(), managed, metrics)
        self._fleet.report(replica, adapters)
        if not self._serving:
            self._serving = True
            self._listener.ready()
            log.info("the first replica is there")

    async def figures(self) -> dict[str, int]:
        """Replicas that report, and counts since the start."""
        counts = self._replicas.counts
        return {
            "replicas": len(self._heard),
            "requests": counts.requests,
            "resident": counts.resident,
            "again": counts.again,
            **{reason.value: count for reason, count in counts.errors.items()},
        }

    def check_health(self) -> None:
        """Serve starts another front if this raises."""
        if self._watching.done():
            raise ServerError("the front no longer looks after its replicas; see its log")

    async def __del__(self) -> None:
        await self._stack.aclose()

    def _metrics(self) -> Iterable[Metric]:
        own = metrics_of_front(self._fleet, self._replicas, self._queue)
        return merged({FRONT_LABEL: own, **{n: h.metrics for n, h in self._heard.items()}})

    def _managed(self) -> list[bool]:
        return [heard.managed for heard in self._heard.values()]

    def _adapters(self) -> tuple[WatchedAdapters, str]:
        if not self._serving:
            raise starting()
        return self._fleet, self._fleet.epoch

    async def _watch(self) -> None:
        """Forgets replicas that no longer report."""
        while True:
            await asyncio.sleep(SILENCE_SECONDS / 5)
            oldest = self._loop.time() - SILENCE_SECONDS
            for gone in [name for name, heard in self._heard.items() if heard.when < oldest]:
                del self._heard[gone]
            # Until others come, what there was is still what there is.
            if self._heard:
                self._fleet.keep_only(self._heard)
