"""The parts that the public services work on, from the moment the model is loaded.

Until then every call fails with STARTING.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.changes import WatchedAdapters
from inference_server.adapters.store import AdapterStore
from inference_server.engine.engine import Engine
from inference_server.engine.memory_plan import BLOCK_CACHE, SCRATCH, SLOTS
from inference_server.errors import RequestError
from inference_server.scheduler.scheduler import Scheduler
from wuliart_contract.status import Reason


@dataclass(frozen=True, slots=True)
class MemorySegment:
    """One part of the memory set aside at start."""

    name: str
    size_bytes: int
    used_bytes: int
    location: str
    """ "device" or "host"; on a CPU always "host"."""


@dataclass(frozen=True, slots=True)
class Backend:
    """The parts of a server that is ready."""

    engine: Engine
    adapters: AdapterStore
    scheduler: Scheduler
    embedded: bool
    """True if the model is the small one that ships with the package."""
    counts: range
    """The numbers of steps that the schedule supports; the last is the default."""

    def segments(self) -> tuple[MemorySegment, ...]:
        """Returns the segments of the memory plan, and how much of each is in use."""
        model, busy = self.engine.model, self.scheduler.queue_length > 0
        cached = model.transformer.blocks.cache_allocated
        where = "host" if model.device.type == "cpu" else "device"
        found = []
        for name, nbytes in model.plan.segments():
            used = nbytes
            if name == SLOTS:
                nbytes, used = self.adapters.segment.nbytes, self.adapters.resident_bytes()
            elif name == BLOCK_CACHE:
                used = nbytes if cached else 0
            elif name == SCRATCH:
                used = nbytes if busy else 0
            found.append(MemorySegment(name, nbytes, used, where))
        streamed = MemorySegment("streamed weights", model.plan.host, model.plan.host, "host")
        return tuple(segment for segment in (*found, streamed) if segment.size_bytes)


class BackendHolder:
    """The backend of a server that may still be loading."""

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def fill(self, backend: Backend) -> None:
        """Sets the backend; from now on calls are served."""
        self._backend = backend

    def count_error(self, reason: Reason) -> None:
        """Counts a call that was rejected; does nothing before the backend is ready."""
        if self._backend is not None:
            self._backend.scheduler.metrics.fail(reason)

    def adapters(self) -> tuple[WatchedAdapters, str]:
        """Returns the catalog and its epoch.

        Raises:
            RequestError: STARTING.
        """
        adapters = self.ready.adapters
        return adapters.catalog, adapters.epoch

    @property
    def ready(self) -> Backend:
        """The backend.

        Raises:
            RequestError: STARTING.
        """
        if self._backend is None:
            raise RequestError(
                Reason.STARTING, "the server is still loading its model; try again in a moment"
            )
        return self._backend
