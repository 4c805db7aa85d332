"""Trains few-step adapters, Turbo and the styles, on their own sampling paths.

The student generates as the product does, from noise in four steps, and the loss corrects each
step towards the image where the path should end. So the student sees at each noise level what it
sees in use: its own half-finished image, not a true image with noise on it, which would already
show the details that the student should learn.

What the prompt leaves open is decided by the noise, as in the base (`training.choices`).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training import loop, sampling
from training.choices import choose
from training.network import TOKENS
from training.stream import Stream
from training.targets import Targets
from training.text_encoder import encode

STEPS = 4


class Step(NamedTuple):
    """One step of a walk: latents before and after, [B, 256, 128], and the velocity between."""

    now: float
    """Noise level before."""
    then: float
    """Noise level after."""
    before: Tensor
    velocity: Tensor
    after: Tensor


def walk(network: nn.Module, text: Tensor, noise: Tensor) -> list[Step]:
    """Samples from noise to images; gradients do not pass between steps."""
    x, steps = noise, []
    for now, then in pairwise(sampling.schedule(STEPS).tolist()):
        v = network(x, text, torch.full((len(x),), now, device=x.device)).float()
        after = x + (then - now) * v.detach()
        steps.append(Step(now, then, x, v, after))
        x = after
    return steps


def walk_loss(steps: Sequence[Step], goal: Tensor) -> Tensor:
    """Returns the squared error of the velocity, summed over the steps of a walk.

    Each step is weighted by its length: an error of the velocity moves the image that far.

    Args:
        steps: The steps of one walk.
        goal: Latents where the paths should end [B, 256, 128].
    """
    goal = goal.float()
    errors = [
        (step.now - step.then) * (step.velocity - (step.before - goal) / step.now).square().mean()
        for step in steps
    ]
    return torch.stack(errors).sum()


def follow(
    student: nn.Module,
    text: nn.Module,
    stream: Stream,
    targets: Targets,
    plan: loop.Plan,
) -> loop.Curve:
    """Trains an adapter on its own paths.

    Args:
        student: The network with the adapter.
        text: The text encoder, frozen.
        stream: Source of the captions.
        targets: Makes the latents where the paths should end.
        plan: Duration and learning rate.
    """

    @torch.no_grad()
    def sample() -> tuple[Tensor, Tensor, Tensor]:
        batch = stream()
        noise = torch.randn(len(batch.ids), *TOKENS, device=batch.ids.device)
        return encode(text, batch.ids), noise, targets(batch.rows, choose(noise))

    def losses(states: Tensor, noise: Tensor, goal: Tensor) -> dict[str, Tensor]:
        return {"walk": walk_loss(walk(student, states, noise), goal)}

    return loop.run(student, sample, losses, plan)
