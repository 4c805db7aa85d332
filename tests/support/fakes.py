"""An engine that computes nothing. Tests can hold every stage, release it, make it fail, and wait
for its calls.
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

from inference_server.engine.latent_image import LatentImage
from inference_server.engine.memory_plan import Demand
from inference_server.engine.prompt_cache import PromptEmbedding
from inference_server.loading.memory_budget import make_plan
from inference_server.model.kernels.low_rank import GatedAdapter
from inference_server.model.rope import Rotation

DEADLINE = 60.0
"""Seconds after which a wait fails the test: far above what a busy machine needs."""


async def until(condition: Callable[[], bool]) -> None:
    """Waits until the condition holds."""
    ends = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > ends:
            raise AssertionError(f"the condition did not become true in {DEADLINE} s")
        await asyncio.sleep(0.001)


async def settle() -> None:
    """Runs the event loop until every task waits for an event that has not happened yet."""
    for _ in range(30):
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class FakePrompt(PromptEmbedding):
    """An empty embedding that keeps its prompt."""

    text: str = ""


class FakeImage(LatentImage):
    """An image of one colour."""

    def __init__(
        self, prompt: FakePrompt, seed: int, steps: int, adapters: Sequence[GatedAdapter]
    ) -> None:
        sigmas = [1 - n / steps for n in range(steps + 1)]
        super().__init__(
            prompt, sigmas=sigmas, modulation=(), adapters=adapters, latents=torch.empty(0)
        )
        self.text = prompt.text
        self.seed = seed
        self.steps = steps
        self.done = 0


@dataclass(frozen=True)
class Call:
    """One call of the engine. `subject` is the prompt for encode, the seed for all others."""

    stage: str
    subject: str | int
    thread: str


@dataclass
class FakeEngine:
    """A `scheduler.ImageEngine` without a model.

    `hold` makes a stage wait for `let` or `free`; `fail` makes the stage's next call raise, once.
    """

    step_seconds: float = 0.0
    """Time that each image adds to a step."""
    cold: set[str] = field(default_factory=set)
    """Prompts that are not cached yet; every other prompt is."""
    calls: list[Call] = field(default_factory=list)
    images: list[FakeImage] = field(default_factory=list)
    """Every image that was begun, in order."""
    _failures: dict[str, Exception] = field(default_factory=dict)
    _permits: dict[str, float] = field(default_factory=dict)
    _gate: threading.Condition = field(default_factory=threading.Condition)

    # -- for tests --------------------------------------------------------------------------

    def hold(self, stage: str = "step") -> None:
        """Makes calls of the stage wait from now on."""
        with self._gate:
            self._permits[stage] = 0

    def let(self, calls: int = 1, stage: str = "step") -> None:
        """Releases that many calls of a held stage."""
        with self._gate:
            self._permits[stage] += calls
            self._gate.notify_all()

    def free(self) -> None:
        """Releases every stage."""
        with self._gate:
            self._permits.clear()
            self._gate.notify_all()

    def fail(self, stage: str, error: Exception) -> None:
        """Makes the stage's next call raise."""
        self._failures[stage] = error

    def entered(self, stage: str, subject: str | int | None = None) -> int:
        """Returns how often the stage was called (for this subject), waiting calls included."""
        return sum(
            call.stage == stage and subject in (None, call.subject) for call in list(self.calls)
        )

    # -- for the scheduler ------------------------------------------------------------------

    def encode(self, prompt: str) -> FakePrompt:
        self._enter("encode", prompt)
        empty = torch.empty(0)
        return FakePrompt(
            empty, Rotation(empty, empty), len(prompt), max(0, len(prompt) - 512), prompt
        )

    def begin(
        self, prompt: PromptEmbedding, seed: int, steps: int, *, adapters: Sequence[GatedAdapter]
    ) -> FakeImage:
        self._enter("begin", seed)
        assert isinstance(prompt, FakePrompt)
        image = FakeImage(prompt, seed, steps, adapters)
        self.images.append(image)
        return image

    def is_encoded(self, prompt: str) -> bool:
        return prompt not in self.cold

    def step(self, images: Sequence[LatentImage], prompts: Sequence[str]) -> None:
        for prompt in prompts:
            self._enter("encode beside", prompt)
            self.cold.discard(prompt)
        for image in map(_fake, images):
            self._enter("step", image.seed)
            time.sleep(self.step_seconds)
            image.done += 1

    def check_finite(self, image: LatentImage) -> None:
        # Not recorded: tests count it as a part of the step before it.
        if (error := self._failures.pop("check_finite", None)) is not None:
            raise error

    def preview(self, image: LatentImage) -> Tensor:
        """[32, 48, 3] uint8: not square, so that swapped sides show."""
        seed = _fake(image).seed
        self._enter("preview", seed)
        return _filled(seed, 32, 48)

    def decode(self, image: LatentImage) -> Tensor:
        """[1024, 1024, 3] uint8 of `colour(seed)`."""
        seed = _fake(image).seed
        self._enter("decode", seed)
        return _filled(seed, 1024, 1024)

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


def _fake(image: LatentImage) -> FakeImage:
    assert isinstance(image, FakeImage)
    return image


def planned_memory() -> dict[str, Any]:
    """Fields of a `LoadedModel` that describe its memory: a plan of a few bytes, none streamed."""
    return {
        "plan": make_plan(Demand(10, 20, 5, 5, 1, 2, 1, 3), None),
        "transformer": SimpleNamespace(blocks=SimpleNamespace(cache_allocated=False)),
    }


def colour(seed: int) -> tuple[int, int, int]:
    """Returns the colour of the seed's image; neighbouring seeds get colours far apart."""
    mixed = seed * 2654435761 % (1 << 32)
    return mixed >> 24, mixed >> 16 & 255, mixed >> 8 & 255


def _filled(seed: int, height: int, width: int) -> Tensor:
    return torch.tensor(colour(seed), dtype=torch.uint8).repeat(height, width, 1)
