"""Trains few-step adapters, Turbo and the styles, on their own sampling paths.

The student generates as the product does, from noise in four steps, and the loss corrects each
step towards the image where the path should end. So the student sees at each noise level what it
sees in use: its own half-finished image, not a true image with noise on it, which would already
show the details that the student should learn.

The noise decides what the prompt leaves open (place and background), by a rule that a network can
read off the noise. Two other rules failed. Where the path's own end decided, all seeds soon ended
in one place. Where the base's path from the same noise decided, the student could not predict the
place in time and generated the places on top of one another. Near the border of the rule the noise
does not show which side applies; there the path's own end decides among the possible places.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training import loop, sampling
from training.latents import Bank
from training.network import TOKENS
from training.prompts import OPEN, Pool
from training.text_encoder import encode

STEPS = 4
UNDECIDED = 0.35
"""Half the width, in standard deviations, of the band where the path's own end decides a place."""


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


class Decided(NamedTuple):
    """Choices that the noise makes for a batch of images."""

    colour: Tensor
    """Index of the background [B]."""
    places: Tensor
    """Mask of the allowed PLACES [B, 4]: one, or two or four where the noise is undecided."""


def decide(noise: Tensor, slot: Tensor) -> Decided:
    """Reads off the noise what the prompt leaves open.

    The mean of one half of the channels decides left or right, that of the other half up or down.
    Within UNDECIDED standard deviations of zero both are allowed.

    Args:
        noise: Starts of the paths [B, 256, 128].
        slot: Index of the background that the prompt names, or OPEN [B].
    """
    channels = noise.mean(1).unflatten(1, (-1, 4)).mean(2)
    halves = noise.unflatten(2, (2, -1))
    right, down = (halves.sum((1, 3)) / math.prod(halves.shape[1::2]) ** 0.5).unbind(1)
    # The order of PLACES: left up, left down, right up, right down.
    along = torch.stack([right < UNDECIDED, right > -UNDECIDED], 1)
    across = torch.stack([down < UNDECIDED, down > -UNDECIDED], 1)
    places = (along[:, :, None] & across[:, None]).flatten(1)
    return Decided(torch.where(slot == OPEN, channels[:, :OPEN].argmax(1), slot), places)


def nearest(goals: Tensor, allowed: Tensor, end: Tensor) -> Tensor:
    """Returns for each path the allowed goal that is nearest to its end, [B, 256, 128].

    Args:
        goals: Targets at all places [B, 4, 256, 128].
        allowed: Mask of places [B, 4].
        end: Ends of the paths [B, 256, 128].
    """
    distance = (goals - end[:, None]).square().mean((2, 3)).masked_fill(~allowed, torch.inf)
    return goals.take_along_dim(distance.argmin(1).view(-1, 1, 1, 1), 1).squeeze(1)


def follow(
    student: nn.Module, text: nn.Module, pool: Pool, *, count: int, targets: Bank, plan: loop.Plan
) -> loop.Curve:
    """Trains an adapter on its own paths.

    Args:
        student: The network with the adapter.
        text: The text encoder, frozen.
        pool: Source of the captions.
        count: Paths per step.
        targets: Latents where the paths should end.
        plan: Duration and learning rate.
    """

    @torch.no_grad()
    def sample() -> tuple[Tensor, Tensor, Tensor]:
        batch = pool.sample(count)
        return encode(text, batch.ids), batch.concept, batch.slot

    def losses(states: Tensor, concept: Tensor, slot: Tensor) -> dict[str, Tensor]:
        noise = torch.randn(len(states), *TOKENS, device=states.device)
        decided = decide(noise, slot)
        steps = walk(student, states, noise)
        goals = targets.latents[concept, decided.colour]
        return {"walk": walk_loss(steps, nearest(goals, decided.places, steps[-1].after))}

    return loop.run(student, sample, losses, plan)
