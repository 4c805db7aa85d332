"""Inputs that the runs of one process share, each made at first use: base, renderings, targets."""

from __future__ import annotations

import argparse
from functools import cached_property
from pathlib import Path

import torch

from training import trained
from training.autoencoder import Autoencoder, load
from training.data import concepts as table
from training.data.concepts import Concept
from training.evaluation import Evaluator
from training.grounds import VARIANTS
from training.renderings import Rendered, render
from training.stream import Source, Stream
from training.styles import Look
from training.targets import Targets
from training.team import Team
from training.trained import TrainedBase

EVALUATED_AT_ONCE = 8


class Resources:
    """Shared inputs of the runs of one process.

    Args:
        chosen: The common arguments of `options.parser`.
    """

    def __init__(self, chosen: argparse.Namespace) -> None:
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
        # cuDNN's attention builds a plan for each length of captions, which took 30 s of a run.
        torch.backends.cuda.enable_cudnn_sdp(False)
        self.team = Team()
        self.device = torch.device(chosen.device)
        self.compile: bool = chosen.compile
        self.out: Path = chosen.out
        self.concepts: list[Concept] = table.read()[: chosen.concepts]
        self._folder, self._cache, self._vae = chosen.base, chosen.cache, chosen.vae
        self._count = chosen.concepts
        self._workers: int = chosen.workers or self.team.cores
        self._rendered: dict[str, Rendered] = {}

    @cached_property
    def base(self) -> TrainedBase:
        """The base to start from; `training.base` trains it in place."""
        return trained.load(self._folder, self.device)

    @cached_property
    def autoencoder(self) -> Autoencoder:
        """The VAE, frozen."""
        return load(self._vae, self.device).to(memory_format=torch.channels_last)

    def targets(self, look: Look) -> Targets:
        """Returns what makes training images in a look."""
        if look.set not in self._rendered:
            self._rendered[look.set] = render(
                self._cache,
                look.set,
                self.concepts,
                variants=range(VARIANTS),
                device=self.device,
                keep=True,
            )
        rendered = self._rendered[look.set]
        return Targets(rendered, look.paint, self.autoencoder, self.compile)

    def stream(self, count: int, seed: int, trigger: tuple[str, ...] = ()) -> Stream:
        """Returns endless batches of captions, other ones in each process of the team."""
        source = Source(self._folder, self._count, trigger)
        seed = seed * 100 + self.team.rank
        return Stream(source, count, seed=seed, device=self.device, workers=self._workers)

    def evaluator(self, look: Look, count: int, seed: int) -> Evaluator:
        """Returns an evaluator of `count` captions in a look."""
        source = Source(self._folder, self._count)
        stream = Stream(source, EVALUATED_AT_ONCE, seed=seed, device=self.device, workers=2)
        made = Evaluator(stream, self.base.text, self.targets(look), count)
        stream.close()
        return made
