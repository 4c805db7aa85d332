"""Inputs that the runs of one process share, each made at first use: base, renderings, targets."""

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
from training.evaluation import Evaluator
from training.latents import Bank, Codec
from training.prompts import Pool
from training.renderings import render_sets
from training.styles import PLAIN, Look
from training.trained import TrainedBase


class Resources:
    """Shared inputs of the runs of one process.

    Args:
        chosen: The common arguments of `options.parser`.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_float32_matmul_precision("high")
        self.device = torch.device(chosen.device)
        self.compile: bool = chosen.compile
        self.out: Path = chosen.out
        self.concepts: list[Concept] = table.read()[: chosen.concepts]
        self._folder, self._cache, self._workers = chosen.base, chosen.cache, chosen.workers
        self._rendered: dict[str, Tensor] = {}

    @cached_property
    def base(self) -> TrainedBase:
        """The base to start from; `training.base` trains it in place."""
        return trained.load(self._folder, self.device)

    @cached_property
    def codec(self) -> Codec:
        """The VAE."""
        return Codec(trained.VAE, self.device, self.compile)

    @cached_property
    def plain(self) -> Bank:
        """Targets of the base and of Turbo."""
        return self.targets(PLAIN)

    def renderings(self, names: Sequence[str]) -> list[Tensor]:
        """Returns [concepts, 4, 1024, 1024] uint8 RGBA of each set."""
        missing = [name for name in names if name not in self._rendered]
        if missing:
            rendered = render_sets(
                self._cache, missing, self.concepts, workers=self._workers, device=self.device
            )
            self._rendered |= zip(missing, rendered, strict=True)
        return [self._rendered[name] for name in names]

    def targets(self, look: Look) -> Bank:
        """Returns the latents of every concept in a look."""
        return Bank.build(self.renderings(look.sets), look.paint, self.codec)

    def evaluator(self, look: Look, count: int, seed: int) -> Evaluator:
        """Returns an evaluator of `count` prompts that name their background, in a look."""
        pool = Pool(
            self.base.tokenizer, self.concepts, 4, seed=seed, device=self.device, open_share=0.0
        )
        references = latents.references(self.renderings(look.sets), look.paint)
        return Evaluator(pool, self.base.text, self.codec, references=references, count=count)
