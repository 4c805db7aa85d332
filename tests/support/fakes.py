"""Stand-ins for the parts around the scheduler: an engine that generates nothing, a binder that
pins nothing, and a way to wait for what they see. Every stage can be held, let go and made to fail.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterWeight, FileEntry, Resident
from inference_server.adapters.slots import Pin
from inference_server.engine.memory_plan import Demand
from inference_server.loading.memory_plan import make_plan
from inference_server.model.kernels.low_rank import AdapterTensors, GatedAdapter

DEADLINE = 10.0
"""Seconds after which a test has failed rather than been slow."""


async def until(condition: Callable[[], bool]) -> None:
    """Returns once the condition holds; what the test waits for must happen by itself."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError("what the test waits for did not happen")
        await asyncio.sleep(0.001)


async def settle() -> None:
    """Lets every task go on until all wait for something that is yet to come."""
    for _ in range(30):
        await asyncio.sleep(0)


@dataclass(frozen=True)
class FakePrompt:
    """An embedding of nothing."""

    text: str
    tokens: int
    tokens_ignored: int


@dataclass
class FakeDrawing:
    """An image of one colour."""

    prompt: FakePrompt
    seed: int
    steps: int
    adapters: Sequence[GatedAdapter]
    done: int = 0


@dataclass(frozen=True)
class Call:
    """One call of the engine. `subject` is the prompt for encode, the seed for all others."""

    stage: str
    subject: str | int
    thread: str


@dataclass
class FakeEngine:
    """`scheduler.ImageEngine` without a model.

    `step_seconds` is slept in every step. `hold` makes a stage wait for `let` or `free`; `fail`
    makes the stage's next call raise, once.
    """

    step_seconds: float = 0.0
    cold: set[str] = field(default_factory=set)
    """Prompts that take long to encode; everything else is as if it were in the cache."""
    calls: list[Call] = field(default_factory=list)
    drawings: list[FakeDrawing] = field(default_factory=list)
    _failures: dict[str, Exception] = field(default_factory=dict)
    _permits: dict[str, float] = field(default_factory=dict)
    _gate: threading.Condition = field(default_factory=threading.Condition)

    # -- what tests do ----------------------------------------------------------------------

    def hold(self, stage: str = "step") -> None:
        """Calls of the stage wait from now on."""
        with self._gate:
            self._permits[stage] = 0

    def let(self, calls: int = 1, stage: str = "step") -> None:
        """Lets that many calls of a held stage go on."""
        with self._gate:
            self._permits[stage] += calls
            self._gate.notify_all()

    def free(self) -> None:
        """Nothing is held any more."""
        with self._gate:
            self._permits.clear()
            self._gate.notify_all()

    def fail(self, stage: str, error: Exception) -> None:
        """The stage's next call raises."""
        self._failures[stage] = error

    def entered(self, stage: str, subject: str | int | None = None) -> int:
        """How often the stage was called (for this subject), calls that wait included."""
        return sum(
            call.stage == stage and subject in (None, call.subject) for call in list(self.calls)
        )

    # -- what the scheduler does --------------------------------------------------------------

    def encode(self, prompt: str) -> FakePrompt:
        self._enter("encode", prompt)
        return FakePrompt(prompt, len(prompt), max(0, len(prompt) - 512))

    def begin(
        self, prompt: FakePrompt, seed: int, steps: int, adapters: Sequence[GatedAdapter]
    ) -> FakeDrawing:
        self._enter("begin", seed)
        drawing = FakeDrawing(prompt, seed, steps, adapters)
        self.drawings.append(drawing)
        return drawing

    def encoded(self, prompt: str) -> bool:
        return prompt not in self.cold

    def step(self, drawings: Sequence[FakeDrawing], prompts: Sequence[str]) -> None:
        for prompt in prompts:
            self._enter("encode beside", prompt)
            self.cold.discard(prompt)
        for drawing in drawings:
            self._enter("step", drawing.seed)
            time.sleep(self.step_seconds)
            drawing.done += 1

    def check(self, drawing: FakeDrawing) -> None:
        # Not among the calls: it belongs to the step before it.
        if (error := self._failures.pop("check", None)) is not None:
            raise error

    def preview(self, drawing: FakeDrawing) -> Tensor:
        """uint8 [32, 48, 3]: not square, so that a mix-up of its sides shows."""
        self._enter("preview", drawing.seed)
        return _filled(drawing.seed, 32, 48)

    def decode(self, drawing: FakeDrawing) -> Tensor:
        """uint8 [1024, 1024, 3] of `colour(seed)`."""
        self._enter("decode", drawing.seed)
        return _filled(drawing.seed, 1024, 1024)

    def rest(self) -> None:
        self._enter("rest", "")

    def _enter(self, stage: str, subject: str | int) -> None:
        self.calls.append(Call(stage, subject, threading.current_thread().name))
        with self._gate:
            if not self._gate.wait_for(lambda: self._permits.get(stage, math.inf) >= 1, DEADLINE):
                raise AssertionError(f"the test never let {stage} go on")
            if stage in self._permits:
                self._permits[stage] -= 1
        if (error := self._failures.pop(stage, None)) is not None:
            raise error


def planned_memory() -> dict[str, Any]:
    """What of a model tells its memory: a plan of a few bytes, nothing streamed."""
    return {
        "plan": make_plan(Demand(10, 20, 5, 5, 1, 2, 1, 3), None),
        "transformer": SimpleNamespace(blocks=SimpleNamespace(headroom_taken=False)),
    }


def colour(seed: int) -> tuple[int, int, int]:
    """The colour of the seed's image; seeds side by side get colours far apart."""
    mixed = seed * 2654435761 % (1 << 32)
    return mixed >> 24, mixed >> 16 & 255, mixed >> 8 & 255


def _filled(seed: int, height: int, width: int) -> Tensor:
    return torch.tensor(colour(seed), dtype=torch.uint8).repeat(height, width, 1)


@dataclass(eq=False)
class FakeBinder:
    """`scheduler.AdapterBinder` without slots; remembers what was bound and what came back.

    `hold` makes binds wait for `free`; `cancel_seconds` is how long a cancelled bind takes to end.
    """

    cancel_seconds: float = 0.0
    asked: list[tuple[AdapterWeight, ...]] = field(default_factory=list)
    bound: list[Binding] = field(default_factory=list)
    released: list[Binding] = field(default_factory=list)
    cancelled: int = 0
    _open: asyncio.Event = field(default_factory=asyncio.Event)
    _held: frozenset[str] = frozenset()
    _failure: Exception | None = None

    def __post_init__(self) -> None:
        self._open.set()

    def hold(self, *names: str) -> None:
        """Binds wait from now on; with names, only binds of those."""
        self._held = frozenset(names)
        self._open.clear()

    def free(self) -> None:
        """Binds no longer wait."""
        self._open.set()

    def _waits(self, wanted: Sequence[AdapterWeight]) -> bool:
        touched = not self._held or any(w.name in self._held for w in wanted)
        return touched and not self._open.is_set()

    def fail(self, error: Exception) -> None:
        """The next bind raises."""
        self._failure = error

    @property
    def balanced(self) -> bool:
        """Whether every binding came back exactly once."""
        return sorted(map(id, self.bound)) == sorted(map(id, self.released))

    def check(self, wanted: Sequence[AdapterWeight]) -> None:
        """Everything can be bound."""

    def try_bind(self, wanted: Sequence[AdapterWeight]) -> Binding | None:
        if self._waits(wanted) or self._failure is not None:
            return None
        self.asked.append(tuple(wanted))
        return self._bind(wanted)

    async def bind(self, wanted: Sequence[AdapterWeight]) -> Binding:
        self.asked.append(tuple(wanted))
        try:
            if self._waits(wanted):
                await self._open.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            if self.cancel_seconds:
                await asyncio.sleep(self.cancel_seconds)
            raise
        if self._failure is not None:
            error, self._failure = self._failure, None
            raise error
        return self._bind(wanted)

    def _bind(self, wanted: Sequence[AdapterWeight]) -> Binding:
        binding = Binding(tuple(wanted), tuple(_pin(w.name, n) for n, w in enumerate(wanted)))
        self.bound.append(binding)
        return binding

    def release(self, binding: Binding) -> None:
        self.released.append(binding)


def _pin(name: str, slot: int) -> Pin:
    entry = FileEntry(name, name, (), 4, 1000, f"hash of {name}")
    return Pin(slot, Resident(entry, 100 + slot, 0.0, AdapterTensors({}, {}), slot))
