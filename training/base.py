"""Trains text encoder and transformer together, from scratch: `python -m training.base`.

Each image is trained at several noise levels, half of them very high: with 32,768 latent values an
image stays visible through noise so long that the network can ignore the text. What the words leave
open is decided by the noise (`training.choices`), so that no possibilities have to be averaged.
On several GPUs: `torchrun --nproc-per-node N -m training.base`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from training import loop, options, sampling, trained
from training.choices import choose, shuffled
from training.naming import Naming
from training.network import TOKENS
from training.resources import Resources
from training.styles import PLAIN
from training.text_encoder import encode
from training.trained import TrainedBase

LEVELS = 8
"""Noise levels per image."""
SHIFTS = (2.0, 6.0)
"""Time shifts of the noise levels, used alternately."""
NAMING_WEIGHT = 0.03
"""Weight of the auxiliary losses, which read from the text alone what the image shows."""


class Base(nn.Module):
    """The trained modules: text encoder with its heads, and transformer."""

    def __init__(self, base: TrainedBase, concepts: int) -> None:
        super().__init__()
        self.naming = Naming(base.text, concepts)
        self.network = base.network.requires_grad_(True)


def levels(images: int, device: torch.device, shifts: Sequence[float] = SHIFTS) -> Tensor:
    """Samples [images * LEVELS] noise levels, stratified for each image and shift."""
    strata = LEVELS // len(shifts)
    low = torch.arange(strata, device=device)[:, None]
    u = (low + torch.rand(images, strata, len(shifts), device=device)) / strata
    return sampling.shifted(u, torch.tensor(shifts, device=device)).flatten()


def flow_loss(
    network: nn.Module, text: Tensor, x0: Tensor, noise: Tensor, shifts: Sequence[float] = SHIFTS
) -> Tensor:
    """Returns the squared error of the velocity at LEVELS noise levels of each image.

    Args:
        network: The transformer.
        text: Encoded captions [B, tokens, HIDDEN].
        x0: Latents [B, 256, 128].
        noise: Of the same shape; it decided what the images show.
        shifts: Time shifts of the noise levels.
    """
    text, x0, noise = (x.repeat_interleave(LEVELS, 0) for x in (text, x0, noise))
    noise = shuffled(noise)
    sigma = levels(len(x0) // LEVELS, x0.device, shifts)
    level = sigma[:, None, None]
    v = network((1 - level) * x0 + level * noise, text, sigma)
    return (v.float() - (noise - x0)).square().mean()


def arguments(parser: argparse.ArgumentParser) -> None:
    """Adds this run's own arguments."""
    add = parser.add_argument
    add("--fresh", action="store_true", help="start from random weights; keep the tokenizer only")
    add("--base-seconds", type=float, default=420.0)
    add("--base-batch", type=int, default=128, help="images in a step, on each GPU")
    add("--base-shifts", type=float, nargs="+", default=SHIFTS, help="time shifts of noise levels")
    add("--base-rate", type=float, default=1.5e-3)
    add("--base-decay", type=float, default=0.5, help="last share of the time, of falling rate")
    add("--base-seed", type=int, default=1)


def train(resources: Resources, chosen: argparse.Namespace) -> None:
    """Trains for a fixed time, then saves weights and curve."""
    team = resources.team
    torch.manual_seed(chosen.base_seed)
    device = resources.device
    if chosen.fresh:
        resources.base = trained.untrained(chosen.base)
    model = Base(resources.base, len(resources.concepts)).to(device).train()
    team.seed(chosen.base_seed)
    targets = resources.targets(PLAIN)
    stream = resources.stream(chosen.base_batch, chosen.base_seed)
    if resources.compile:
        model.network.compile_blocks()

    def sample() -> tuple[Tensor, Tensor, Tensor, Tensor]:
        batch = stream()
        noise = torch.randn(len(batch.ids), *TOKENS, device=device)
        return batch.ids, batch.rows, targets(batch.rows, choose(noise)), noise

    def losses(ids: Tensor, rows: Tensor, x0: Tensor, noise: Tensor) -> dict[str, Tensor]:
        text = encode(model.naming.text, ids)
        flow = flow_loss(model.network, text, x0, noise, chosen.base_shifts)
        return {"flow": flow, "naming": NAMING_WEIGHT * model.naming.loss(text, rows)}

    plan = loop.Plan(
        chosen.base_seconds,
        chosen.base_rate,
        chosen.base_decay,
        chosen.report,
        team=team,
        until=chosen.until,
    )
    curve = loop.run(model, sample, losses, plan)
    stream.close()
    model.eval().requires_grad_(False)
    if not team.leads:
        return
    trained.save(resources.base, resources.out / "base")
    images = curve[-1]["step"] * chosen.base_batch * team.size
    facts = {"shifts": chosen.base_shifts, "rate": chosen.base_rate, "fresh": chosen.fresh}
    (resources.out / "base.json").write_text(json.dumps(facts | {"images": images, "curve": curve}))


if __name__ == "__main__":
    options.run(__doc__, (arguments, train))
