"""What the public services serve from, once the model is loaded.

Owns the moment of becoming ready; until then every call is answered with STARTING.
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
    """One stretch of memory, in bytes."""

    name: str
    size_bytes: int
    used_bytes: int
    location: str
    """ "device" or "host"; on a CPU they are one."""


@dataclass(frozen=True, slots=True)
class Backend:
    """A ready server's parts."""

    engine: Engine
    adapters: AdapterStore
    scheduler: Scheduler
    embedded: bool
    """Whether the model is the small one that ships with the package."""
    counts: range
    """The numbers of steps that the model's schedule is good for; the last is the default."""

    def segments(self) -> tuple[MemorySegment, ...]:
        """The stretches of memory set aside at start, as the memory plan has them."""
        model, drawing = self.engine.model, self.scheduler.queue_length > 0
        taken = model.transformer.blocks.cache_allocated
        where = "host" if model.device.type == "cpu" else "device"
        found = []
        for name, nbytes in model.plan.segments():
            used = nbytes
            if name == SLOTS:
                nbytes, used = self.adapters.segment.nbytes, self.adapters.resident_bytes()
            elif name == BLOCK_CACHE:
                used = nbytes if taken else 0
            elif name == SCRATCH:
                used = nbytes if drawing else 0
            found.append(MemorySegment(name, nbytes, used, where))
        waiting = MemorySegment("streamed weights", model.plan.host, model.plan.host, "host")
        return tuple(segment for segment in (*found, waiting) if segment.size_bytes)


class BackendSlot:
    """Holds the backend from the moment it is ready."""

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def fill(self, backend: Backend) -> None:
        """The server is ready."""
        self._backend = backend

    def refused(self, reason: Reason) -> None:
        """A call was turned away before it came here; counted once there is where to count."""
        if self._backend is not None:
            self._backend.scheduler.metrics.fail(reason)

    def adapters(self) -> tuple[WatchedAdapters, str]:
        """The catalogue and its epoch; raises as `ready`."""
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
