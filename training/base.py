"""Trains text encoder and transformer together, from scratch: `python -m training.base`.

Each caption is encoded once and trained at several noise levels. Half of those are very high: with
32,768 latent values an image stays visible through noise so long that the network can ignore the
text. Trained from scratch, subjects were learned with shifts of 3 and 12, not with 3 alone.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from training import loop, options, sampling, trained
from training.data.captions import COLOURS
from training.latents import Bank
from training.prompts import Pool, Sample
from training.resources import Resources
from training.text_encoder import HIDDEN, encode
from training.trained import TrainedBase

LEVELS = 4
"""Noise levels per encoded caption."""
SHIFTS = (2.0, 6.0)
"""Time shifts of the noise levels, used alternately."""
NAMING_WEIGHT = 0.05
"""Weight of the auxiliary losses, which predict concept and background from the text alone."""


class Base(nn.Module):
    """The trained modules: text encoder, transformer, and two heads that only training uses."""

    def __init__(self, base: TrainedBase, concepts: int) -> None:
        super().__init__()
        self.text, self.network = base.text.requires_grad_(True), base.network.requires_grad_(True)
        self.text.model.visual.requires_grad_(False)
        self.name_concept = nn.Linear(HIDDEN, concepts)
        self.name_colour = nn.Linear(HIDDEN, len(COLOURS) + 1)


def levels(captions: int, device: torch.device, shifts: Sequence[float] = SHIFTS) -> Tensor:
    """Samples [captions * LEVELS] noise levels, stratified for each caption and shift."""
    strata = LEVELS // len(shifts)
    low = torch.arange(strata, device=device)[:, None]
    u = (low + torch.rand(captions, strata, len(shifts), device=device)) / strata
    return sampling.shifted(u, torch.tensor(shifts, device=device)).flatten()


def flow_loss(
    network: nn.Module,
    text: Tensor,
    sample: Sample,
    *,
    targets: Bank,
    shifts: Sequence[float] = SHIFTS,
) -> Tensor:
    """Returns the squared error of the velocity at LEVELS noise levels of each caption.

    Args:
        network: The transformer.
        text: Encoded captions [captions, tokens, HIDDEN].
        sample: Concepts and backgrounds of the captions.
        targets: Latents of all images.
        shifts: Time shifts of the noise levels.
    """
    wide = (text, sample.concept, sample.colour)
    text, concept, colour = (x.repeat_interleave(LEVELS, 0) for x in wide)
    x0 = targets.any(concept, colour)
    sigma = levels(len(sample.concept), x0.device, shifts)
    noise = torch.randn_like(x0)
    level = sigma[:, None, None]
    v = network((1 - level) * x0 + level * noise, text, sigma)
    return (v.float() - (noise.float() - x0.float())).square().mean()


def naming_loss(model: Base, text: Tensor, sample: Sample) -> Tensor:
    """Returns the cross entropy of concept and background, read off a caption's mean state."""
    mean = text.mean(1)
    naming = F.cross_entropy(model.name_concept(mean), sample.concept, label_smoothing=0.05)
    return naming + 0.2 * F.cross_entropy(model.name_colour(mean), sample.slot)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this run's own arguments."""
    add = parser.add_argument
    add("--fresh", action="store_true", help="start from random weights; keep the tokenizer only")
    add("--base-seconds", type=float, default=420.0)
    add("--base-batch", type=int, default=128, help="captions in a step")
    add(
        "--base-shifts",
        type=float,
        nargs="+",
        default=SHIFTS,
        help="time shifts of the noise levels",
    )
    add("--base-rate", type=float, default=1.5e-3)
    add("--base-seed", type=int, default=1)


def train(resources: Resources, chosen: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights and curve."""
    torch.manual_seed(chosen.base_seed)
    device, targets = resources.device, resources.plain
    if chosen.fresh:
        resources.base = trained.untrained(chosen.base)
    pool = Pool(
        resources.base.tokenizer, resources.concepts, 12, seed=chosen.base_seed, device=device
    )
    model = Base(resources.base, len(resources.concepts)).to(device).train()
    if resources.compile:
        model.network.compile_blocks()

    def losses(*batch: Tensor) -> dict[str, Tensor]:
        sample = Sample(*batch)
        text = encode(model.text, sample.ids)
        naming = NAMING_WEIGHT * naming_loss(model, text, sample)
        flow = flow_loss(model.network, text, sample, targets=targets, shifts=chosen.base_shifts)
        return {"flow": flow, "naming": naming}

    plan = loop.Plan(chosen.base_seconds, chosen.base_rate, 0.5, chosen.report)
    curve = loop.run(model, lambda: pool.sample(chosen.base_batch), losses, plan)
    model.eval().requires_grad_(False)
    trained.save(resources.base, resources.out / "base")
    images = curve[-1]["step"] * chosen.base_batch * LEVELS
    facts = {"shifts": chosen.base_shifts, "rate": chosen.base_rate, "fresh": chosen.fresh}
    (resources.out / "base.json").write_text(json.dumps(facts | {"images": images, "curve": curve}))


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
