"""What the public services serve from, once the model is loaded.

Owns the moment of becoming ready; until then every call is answered with STARTING.
"""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.store import AdapterStore
from inference_server.engine.engine import Engine
from inference_server.errors import RequestError
from inference_server.scheduler.scheduler import Scheduler
from wuliart.contract.status import Reason


@dataclass(frozen=True, slots=True)
class MemorySegment:
    """One stretch of memory, in bytes."""

    name: str
    size_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Backend:
    """A ready server's parts."""

    engine: Engine
    adapters: AdapterStore
    scheduler: Scheduler
    embedded: bool
    """Whether the model is the small one that ships with the package."""

    def segments(self) -> tuple[MemorySegment, ...]:
        """The stretches of memory set aside at start."""
        plan = self.engine.model.plan
        used = {
            "adapter slots": self.adapters.resident_bytes(),
            "headroom": plan.headroom if self.engine.model.transformer.blocks.headroom_taken else 0,
        }
        return tuple(
            MemorySegment(name, nbytes, used.get(name, nbytes)) for name, nbytes in plan.segments()
        )


class BackendSlot:
    """Holds the backend from the moment it is ready."""

    def __init__(self) -> None:
        self._backend: Backend | None = None

    def fill(self, backend: Backend) -> None:
        """The server is ready."""
        self._backend = backend

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
