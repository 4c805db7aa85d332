"""The real server with an engine that takes its time and computes nothing.

    python -m scripts.stub_server [wuliart-server's own arguments]

Owns the engine; everything else is `inference_server`'s own main program: listeners, scheduler,
slots, sockets. An image takes `$FAKED_SECONDS` (0.05) of the device whatever its steps are, and is
one colour, which its seed decides. Knows nothing of who calls.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from inference_server import assembly
from inference_server.__main__ import main

SECONDS = float(os.environ.get("FAKED_SECONDS", "0.05"))

EDGE = 1024
PREVIEW_EDGE = 64


@dataclass(frozen=True)
class Prompt:
    """What is said of a prompt that nobody reads."""

    tokens: int
    tokens_ignored: int = 0


@dataclass
class Drawing:
    """An image that is only waited for."""

    seed: int
    steps: int
    began: float
    done: int = 0


class FakedEngine:
    """`inference_server.engine.engine.Engine` as the scheduler sees it; the model is only shown."""

    last_end = 0.0
    """Of a step, by the machine's monotonic clock: all processes read the same."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def warm_up(self) -> None:
        """Nothing is cold."""

    def encode(self, prompt: str) -> Prompt:
        """At once."""
        return Prompt(len(prompt.split()))

    def encoded(self, prompt: str) -> bool:
        """Always."""
        return True

    def begin(self, prompt: Prompt, seed: int, steps: int, adapters: Sequence[Any]) -> Drawing:
        """From now on the image's time runs."""
        return Drawing(seed, steps, time.perf_counter())

    def step(self, drawings: Sequence[Drawing], prompts: Sequence[str] = ()) -> None:
        """Waits until the step would be done.

        A device does not wait for Python between its steps: the end is counted from the image's
        beginning, so that what the service needs in between is not paid for twice.
        """
        for drawing in drawings:
            drawing.done += 1
            ends = drawing.began + SECONDS * drawing.done / drawing.steps
            time.sleep(max(0.0, ends - time.perf_counter()))
        FakedEngine.last_end = time.monotonic()

    def check(self, drawing: Drawing) -> None:
        """Nothing can break."""

    def preview(self, drawing: Drawing) -> Tensor:
        """uint8 [64, 64, 3]."""
        return _filled(drawing.seed, PREVIEW_EDGE)

    def decode(self, drawing: Drawing) -> Tensor:
        """uint8 [1024, 1024, 3]."""
        return _filled(drawing.seed, EDGE)

    def rest(self) -> None:
        """Nothing was taken."""


def _filled(seed: int, edge: int) -> Tensor:
    # Seeds side by side get colours far apart.
    mixed = seed * 2654435761 % (1 << 32)
    colour = torch.tensor((mixed >> 24, mixed >> 16 & 255, mixed >> 8 & 255), dtype=torch.uint8)
    # Not filled in here: whoever encodes it does that, on another thread than the device's.
    return colour.expand(edge, edge, 3)


if __name__ == "__main__":
    vars(assembly)["Engine"] = FakedEngine
    main()
