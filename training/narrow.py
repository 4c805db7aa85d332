"""Starts the VAE of the present shape from the shipped one: `python -m training.narrow`.

The shipped VAE has two residual blocks per level and no fast encoder. The first block of each level
of its encoder and the first and last of its decoder are kept; the fast encoder is taught the
shipped latents, so that `training.vae --resume` begins with a decoder that nearly fits. To be
deleted with the shipped VAE.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from training import composition, vae
from training.autoencoder import EPS, SHAPE, Autoencoder
from training.data import concepts as table
from training.grounds import VARIANTS
from training.renderings import render
from training.styles import STYLES
from training.team import Team
from training.trained import VAE

LEVELS = len(SHAPE["dim_mult"])


def source_of(name: str) -> str:
    """Returns the name in the shipped VAE of a weight of the present one."""
    if match := re.match(r"vae\.encoder\.down_blocks\.(\d+)\.(.*)", name):
        # The list goes through the levels: residual blocks, then, except in the last, a reduction.
        level, reduces = divmod(int(match[1]), 2)
        return f"vae.encoder.down_blocks.{3 * level + 2 * reduces}.{match[2]}"
    if match := re.match(r"(vae\.decoder\.up_blocks\.\d+\.resnets\.)1\.(.*)", name):
        return f"{match[1]}2.{match[2]}"
    return name


def narrowed(shipped: dict[str, Tensor]) -> Autoencoder:
    """Returns the present VAE with the shipped weights; the fast encoder is untrained."""
    model = Autoencoder()
    weights = {
        name: value if name.startswith("fast.") else shipped.get(source_of(name), value)
        for name, value in model.state_dict().items()
    }
    model.load_state_dict(weights)
    return model


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--cache", type=Path, default=Path(".run/training"))
    add("--out", type=Path, default=Path(".run/training/narrow"))
    add("--seconds", type=float, default=40.0)
    add("--batch", type=int, default=32, help="crops in a step, on each GPU")
    add("--concepts", type=int, default=None, help="use only the first N")
    add("--device", default="cuda")
    add("--compile", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    team, device = Team(), torch.device(options.device)
    concepts, shipped = table.read()[: options.concepts], load_file(VAE)
    looks = {
        name: render(
            options.cache, name, concepts, variants=range(VARIANTS), device=device, keep=True
        )
        for name in {style.look.set for style in STYLES}
    }
    compose = torch.compile(composition.compose) if options.compile else composition.compose
    crops = vae.Crops(looks, compose)
    torch.manual_seed(0)
    model = narrowed(shipped).to(device, memory_format=torch.channels_last)
    teacher = Autoencoder(SHAPE | {"num_res_blocks": 2})
    teacher.load_state_dict(teacher.state_dict() | shipped)
    teacher = teacher.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    team.seed(0)
    assert model.norm.running_mean is not None and model.norm.running_var is not None
    mean = model.norm.running_mean.view(-1, 1, 1)
    std = (model.norm.running_var.view(-1, 1, 1) + EPS).sqrt()
    teach = torch.compile(teacher.encode_stock) if options.compile else teacher.encode_stock
    learn = torch.compile(model.fast) if options.compile else model.fast

    def loss(share: float) -> Tensor:
        x = crops(options.batch)
        with torch.no_grad():
            goal = teach(x)
        return ((learn(x).float() - mean) / std - goal).square().mean()

    curve = vae.trained([list(model.fast.parameters())], loss, options.seconds, 2e-3, team)
    if team.leads:
        print(curve[-1:], flush=True)
        vae.save(model, options.out)


if __name__ == "__main__":
    main()
