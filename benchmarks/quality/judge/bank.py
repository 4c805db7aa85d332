"""Keeps what a training run has reached on disk: weights and facts, whenever the run may end."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.quality.judge import reading
from benchmarks.quality.judge.network import Judge
from training.loop import Average


class Bank:
    """Saves the moving average of a judge's weights now and then.

    Args:
        network: The judge in training.
        codes: Codes of its concepts.
        path: File of the weights; facts are written beside it.
        every: Seconds between two saves.
    """

    def __init__(self, network: Judge, codes: Sequence[str], path: Path, every: float) -> None:
        self._kept, self._average = copy.deepcopy(network), Average(network)
        self._codes, self._path, self._every = codes, path, every
        self._saved = time.monotonic()
        self.steps = 0

    def update(self) -> None:
        """Includes the current weights, and saves if it is time; called after each step."""
        self._average.update(self.steps)
        self.steps += 1
        if time.monotonic() - self._saved >= self._every:
            self.save()

    def save(self) -> None:
        """Saves the averaged weights."""
        for kept, value in zip(self._kept.parameters(), self._average.kept, strict=True):
            kept.data.copy_(value)
        self.save_network(self._kept)

    def save_network(self, network: Judge, **facts: Any) -> None:
        """Saves weights and facts, atomically, in place of what was saved before."""
        reading.save(network, self._codes, self._path)
        self.save_facts(accuracy={}, steps=self.steps, **facts)
        self._saved = time.monotonic()

    def save_facts(self, **facts: Any) -> None:
        """Saves facts about the weights."""
        path = self._path.with_suffix(".json")
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(facts) + "\n", encoding="utf-8")
        partial.replace(path)
