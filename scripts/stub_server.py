"""`wuliart-server` with a stub engine: it takes its time and computes nothing.

    python -m scripts.stub_server [options of wuliart-server]

An image takes `$STUB_SECONDS` (default 0.05) of the device, whatever its number of steps, and has
one colour, which depends on its seed. Everything but the engine is real.
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

SECONDS = float(os.environ.get("STUB_SECONDS", "0.05"))

EDGE = 1024
PREVIEW_EDGE = 64


@dataclass(frozen=True)
class Prompt:
    """An encoded prompt, as far as events report it."""

    tokens: int
    tokens_ignored: int = 0


@dataclass
class Drawing:
    """An image in flight: its seed, and when its steps end."""

    seed: int
    steps: int
    began: float
    done: int = 0


class StubEngine:
    """Takes the place of `inference_server.engine.engine.Engine`; the model is only reported."""

    last_end = 0.0
    """End of the last step, by the monotonic clock, which is the same for all processes."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def warm_up(self) -> None:
        """Does nothing: there is nothing to warm up."""

    def encode(self, prompt: str) -> Prompt:
        """Returns at once."""
        return Prompt(len(prompt.split()))

    def is_encoded(self, prompt: str) -> bool:
        """Returns True: no prompt waits for the device."""
        return True

    def begin(self, prompt: Prompt, seed: int, steps: int, adapters: Sequence[Any]) -> Drawing:
        """Starts the image's time."""
        return Drawing(seed, steps, time.perf_counter())

    def step(self, drawings: Sequence[Drawing], prompts: Sequence[str] = ()) -> None:
        """Waits until the step's end.

        The end is counted from the image's beginning, because a real device does not wait for
        Python between steps: the service's own time must not be added.
        """
        for drawing in drawings:
            drawing.done += 1
            ends = drawing.began + SECONDS * drawing.done / drawing.steps
            time.sleep(max(0.0, ends - time.perf_counter()))
        StubEngine.last_end = time.monotonic()

    def check(self, drawing: Drawing) -> None:
        """Does nothing: there are no values to check."""

    def preview(self, drawing: Drawing) -> Tensor:
        """Returns uint8 [64, 64, 3]."""
        return _filled(drawing.seed, PREVIEW_EDGE)

    def decode(self, drawing: Drawing) -> Tensor:
        """Returns uint8 [1024, 1024, 3]."""
        return _filled(drawing.seed, EDGE)

    def rest(self) -> None:
        """Does nothing: no memory was taken."""


def _filled(seed: int, edge: int) -> Tensor:
    # Knuth's multiplicative hash: neighbouring seeds get distant colours.
    mixed = seed * 2654435761 % (1 << 32)
    colour = torch.tensor((mixed >> 24, mixed >> 16 & 255, mixed >> 8 & 255), dtype=torch.uint8)
    # A view: the encoder's thread expands it, not the device's.
    return colour.expand(edge, edge, 3)


if __name__ == "__main__":
    vars(assembly)["Engine"] = StubEngine
    main()
