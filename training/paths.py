"""The training of everything that is made for few steps: Turbo and the styles.

Owns the walk and the run on it. The student draws as the product does, from noise in four steps,
and each step is corrected towards the drawing where its path should end. What it sees at a noise
level is then what it will see when it is used: its own half-finished image, not a true one with
noise on it, which already shows the details it should learn to draw.

What words leave open, the noise decides, by a rule that a network can read off it. Two others were
tried. Where a path's own end chose, all seeds soon ended in one place; where the base's walk from
the same noise chose, the student could not tell in time, and drew the places over one another. Near
the rule's border nobody can tell, so there the path's own end chooses among the places at hand.
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
"""Standard deviations around the middle of what decides a place; there the path's own end does."""


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
    """From noise to images; no gradient passes from one step to another."""
    x, steps = noise, []
    for now, then in pairwise(sampling.schedule(STEPS).tolist()):
        v = network(x, text, torch.full((len(x),), now, device=x.device)).float()
        after = x + (then - now) * v.detach()
        steps.append(Step(now, then, x, v, after))
        x = after
    return steps


def walk_loss(steps: Sequence[Step], goal: Tensor) -> Tensor:
    """Squared error of the velocity at each step of the student's own paths.

    A step counts by its length: that is how far an error of its velocity moves the image.

    Args:
        steps: of one walk.
        goal: where its paths should end [B, 256, 128].
    """
    goal = goal.float()
    errors = [
        (step.now - step.then) * (step.velocity - (step.before - goal) / step.now).square().mean()
        for step in steps
    ]
    return torch.stack(errors).sum()


class Decided(NamedTuple):
    """What the noise decides of a batch of images."""

    colour: Tensor
    """The background [B]."""
    places: Tensor
    """Which of PLACES are allowed [B, 4]: one, but two or four where the noise is undecided."""


def drawn_from(noise: Tensor, slot: Tensor) -> Decided:
    """Reads off the noise what words leave open.

    Right and down are each decided by the mean of one half of the channels: more than UNDECIDED
    standard deviations from nothing.

    Args:
        noise: where the paths begin [B, 256, 128].
        slot: the background that the words name, or OPEN.
    """
    channels = noise.mean(1).unflatten(1, (-1, 4)).mean(2)
    halves = noise.unflatten(2, (2, -1))
    right, down = (halves.sum((1, 3)) / math.prod(halves.shape[1::2]) ** 0.5).unbind(1)
    # In the order of PLACES: left up, left down, right up, right down.
    along = torch.stack([right < UNDECIDED, right > -UNDECIDED], 1)
    across = torch.stack([down < UNDECIDED, down > -UNDECIDED], 1)
    places = (along[:, :, None] & across[:, None]).flatten(1)
    return Decided(torch.where(slot == OPEN, channels[:, :OPEN].argmax(1), slot), places)


def nearest(goals: Tensor, allowed: Tensor, end: Tensor) -> Tensor:
    """The allowed goal that each path ended nearest to [B, 256, 128].

    Args:
        goals: [B, 4, 256, 128].
        allowed: [B, 4].
        end: where the paths ended [B, 256, 128].
    """
    distance = (goals - end[:, None]).square().mean((2, 3)).masked_fill(~allowed, torch.inf)
    return goals.take_along_dim(distance.argmin(1).view(-1, 1, 1, 1), 1).squeeze(1)


def follow(
    student: nn.Module, text: nn.Module, pool: Pool, count: int, targets: Bank, plan: loop.Plan
) -> loop.Curve:
    """Trains an adapter on its own paths.

    Args:
        student: the network that carries it.
        text: the text encoder, which stays what it is.
        pool: where the captions come from.
        count: paths in a step.
        targets: what the paths should end at.
        plan: how long and how fast.
    """

    @torch.no_grad()
    def draw() -> tuple[Tensor, Tensor, Tensor]:
        drawn = pool.draw(count)
        return encode(text, drawn.ids), drawn.concept, drawn.slot

    def losses(states: Tensor, concept: Tensor, slot: Tensor) -> dict[str, Tensor]:
        noise = torch.randn(len(states), *TOKENS, device=states.device)
        decided = drawn_from(noise, slot)
        steps = walk(student, states, noise)
        goals = targets.latents[concept, decided.colour]
        return {"walk": walk_loss(steps, nearest(goals, decided.places, steps[-1].after))}

    return loop.run(student, draw, losses, plan)
