"""What base, Turbo and styles all need, made once and when it is first asked for.

Owns drawings, targets, references and the base of one process. Knows nothing of losses.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from training import latents, trained
from training.data import concepts as table
from training.data.concepts import Concept
from training.drawings import draw_sets
from training.evaluation import Exam
from training.latents import Bank, Codec
from training.prompts import Pool
from training.styles import PLAIN, Look
from training.trained import TrainedBase


class Studio:
    """One process's workshop.

    Args:
        chosen: `options.parser`'s common arguments.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_float32_matmul_precision("high")
        self.device = torch.device(chosen.device)
        self.compile: bool = chosen.compile
        self.out: Path = chosen.out
        self.concepts: list[Concept] = table.read()[: chosen.concepts]
        self._folder, self._cache, self._workers = chosen.base, chosen.cache, chosen.workers
        self._drawn: dict[str, Tensor] = {}

    @cached_property
    def base(self) -> TrainedBase:
        """The base to go on from; `training.base` replaces its weights by better ones."""
        return trained.load(self._folder, self.device)

    @cached_property
    def codec(self) -> Codec:
        """The VAE."""
        return Codec(trained.VAE, self.device, self.compile)

    @cached_property
    def plain(self) -> Bank:
        """Targets of the base and of Turbo."""
        return self.targets(PLAIN)

    def drawings(self, names: Sequence[str]) -> list[Tensor]:
        """[concepts, 4, 1024, 1024] uint8 RGBA of each set."""
        missing = [name for name in names if name not in self._drawn]
        if missing:
            drawn = draw_sets(self._cache, missing, self.concepts, self._workers, self.device)
            self._drawn |= zip(missing, drawn, strict=True)
        return [self._drawn[name] for name in names]

    def targets(self, look: Look) -> Bank:
        """Every concept in a look, as latents."""
        return Bank.build(self.drawings(look.sets), look.paint, self.codec)

    def exam(self, look: Look, count: int, seed: int) -> Exam:
        """`count` prompts that name their background, to be drawn in a look."""
        pool = Pool(self.base.tokenizer, self.concepts, 4, seed, self.device, open_share=0.0)
        references = latents.references(self.drawings(look.sets), look.paint)
        return Exam(pool, self.base.text, self.codec, references, count)
