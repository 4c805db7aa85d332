"""A binder without slots. Tests can hold binds, release them and make them fail."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterWeight, FileEntry, Resident
from inference_server.adapters.slot_state import Pin
from inference_server.model.kernels.low_rank import AdapterTensors


@dataclass(eq=False)
class FakeBinder:
    """A `scheduler.AdapterBinder` without slots that records bindings and releases.

    `hold` makes binds wait for `free`.
    """

    cancel_seconds: float = 0.0
    """Time that a cancelled bind takes to end."""
    requested: list[tuple[AdapterWeight, ...]] = field(default_factory=list)
    bound: list[Binding] = field(default_factory=list)
    released: list[Binding] = field(default_factory=list)
    cancelled: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _held: frozenset[str] = frozenset()
    _failure: Exception | None = None

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self, *names: str) -> None:
        """Makes binds wait from now on; with names, only binds of those."""
        self._held = frozenset(names)
        self._open.clear()

    def free(self) -> None:
        """Releases the binds."""
        self._open.set()

    def _is_held(self, adapters: Sequence[AdapterWeight]) -> bool:
        touched = not self._held or any(adapter.name in self._held for adapter in adapters)
        return touched and not self._open.is_set()

    def fail(self, error: Exception) -> None:
        """Makes the next bind raise."""
        self._failure = error

    @property
    def balanced(self) -> bool:
        """True if every binding was released exactly once."""
        return sorted(map(id, self.bound)) == sorted(map(id, self.released))

    def check(self, adapters: Sequence[AdapterWeight]) -> None:
        """Accepts all adapters."""

    def try_bind(self, adapters: Sequence[AdapterWeight]) -> Binding | None:
        if self._is_held(adapters) or self._failure is not None:
            return None
        self.requested.append(tuple(adapters))
        return self._bind(adapters)

    async def bind(self, adapters: Sequence[AdapterWeight]) -> Binding:
        self.requested.append(tuple(adapters))
        try:
            if self._is_held(adapters):
                await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.cancel_seconds:
                await asyncio.sleep(self.cancel_seconds)
            raise
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise error
        return self._bind(adapters)

    def _bind(self, adapters: Sequence[AdapterWeight]) -> Binding:
        pins = tuple(_pin(adapter.name, slot) for slot, adapter in enumerate(adapters))
        binding = Binding(tuple(adapters), pins)
        self.bound.append(binding)
        return binding

    def release(self, binding: Binding) -> None:
        self.released.append(binding)


def _pin(name: str, slot: int) -> Pin:
    entry = FileEntry(name, name, (), 4, 1000, f"hash of {name}")
    return Pin(slot, Resident(entry, 100 + slot, 0.0, AdapterTensors({}, {}), slot))
