"""Trains text encoder and transformer together from nothing: `python -m training.base`.

Owns the base's loss. Each caption is encoded once and drawn at several noise levels; half of those
are very high, because with 32,768 latents an image shows through the noise far longer than its
text is needed (from nothing, subjects were learned with shifts of 3 and 12, not with 3 alone).
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
from training.prompts import Drawn, Pool
from training.studio import Studio
from training.text_encoder import HIDDEN, encode
from training.trained import TrainedBase

LEVELS = 4
"""Noise levels per encoded caption."""
SHIFTS = (2.0, 6.0)
"""Time shifts of the noise levels, in turn."""
NAMING_WEIGHT = 0.05
"""Of the two side losses that ask the text alone for concept and background."""


class Base(nn.Module):
    """What is trained: text encoder, transformer, and two heads that only training uses."""

    def __init__(self, base: TrainedBase, concepts: int) -> None:
        super().__init__()
        self.text, self.network = base.text.requires_grad_(True), base.network.requires_grad_(True)
        self.text.model.visual.requires_grad_(False)
        self.name_concept = nn.Linear(HIDDEN, concepts)
        self.name_colour = nn.Linear(HIDDEN, len(COLOURS) + 1)


def levels(captions: int, device: torch.device, shifts: Sequence[float] = SHIFTS) -> Tensor:
    """[captions * LEVELS] noise levels; for each shift they cover a caption's range evenly."""
    strata = LEVELS // len(shifts)
    low = torch.arange(strata, device=device)[:, None]
    u = (low + torch.rand(captions, strata, len(shifts), device=device)) / strata
    return sampling.shifted(u, torch.tensor(shifts, device=device)).flatten()


def flow_loss(
    network: nn.Module,
    text: Tensor,
    drawn: Drawn,
    targets: Bank,
    shifts: Sequence[float] = SHIFTS,
) -> Tensor:
    """Squared error of the velocity at LEVELS noise levels of each caption.

    `text` holds the captions' states [captions, tokens, HIDDEN].
    """
    wide = (text, drawn.concept, drawn.colour)
    text, concept, colour = (x.repeat_interleave(LEVELS, 0) for x in wide)
    x0 = targets.any(concept, colour)
    sigma = levels(len(drawn.concept), x0.device, shifts)
    noise = torch.randn_like(x0)
    level = sigma[:, None, None]
    v = network((1 - level) * x0 + level * noise, text, sigma)
    return (v.float() - (noise.float() - x0.float())).square().mean()


def naming_loss(model: Base, text: Tensor, drawn: Drawn) -> Tensor:
    """How badly the mean of a caption's states names concept and background."""
    mean = text.mean(1)
    naming = F.cross_entropy(model.name_concept(mean), drawn.concept, label_smoothing=0.05)
    return naming + 0.2 * F.cross_entropy(model.name_colour(mean), drawn.slot)


def arguments(parser: argparse.ArgumentParser) -> None:
    """What this run takes beside the common arguments."""
    add = parser.add_argument
    add("--fresh", action="store_true", help="from nothing, only the tokenizer is taken over")
    add("--base-seconds", type=float, default=420.0)
    add("--base-batch", type=int, default=128, help="captions in a step")
    add("--base-shifts", type=float, nargs="+", default=SHIFTS, help="of noise levels")
    add("--base-rate", type=float, default=1.5e-3)
    add("--base-seed", type=int, default=1)


def train(studio: Studio, chosen: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights, curve and scores."""
    torch.manual_seed(chosen.base_seed)
    device, targets = studio.device, studio.plain
    if chosen.fresh:
        studio.base = trained.untrained(chosen.base)
    pool = Pool(studio.base.tokenizer, studio.concepts, 12, chosen.base_seed, device)
    model = Base(studio.base, len(studio.concepts)).to(device).train()
    if studio.compile:
        model.network.compile_blocks()

    def losses(*batch: Tensor) -> dict[str, Tensor]:
        drawn = Drawn(*batch)
        text = encode(model.text, drawn.ids)
        naming = NAMING_WEIGHT * naming_loss(model, text, drawn)
        flow = flow_loss(model.network, text, drawn, targets, chosen.base_shifts)
        return {"flow": flow, "naming": naming}

    plan = loop.Plan(chosen.base_seconds, chosen.base_rate, 0.5, chosen.report)
    curve = loop.run(model, lambda: pool.draw(chosen.base_batch), losses, plan)
    model.eval().requires_grad_(False)
    trained.save(studio.base, studio.out / "base")
    images = curve[-1]["step"] * chosen.base_batch * LEVELS
    facts = {"shifts": chosen.base_shifts, "rate": chosen.base_rate, "fresh": chosen.fresh}
    (studio.out / "base.json").write_text(json.dumps(facts | {"images": images, "curve": curve}))


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
