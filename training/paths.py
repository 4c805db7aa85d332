"""The training of everything that is made for few steps: Turbo and the styles.

Owns the walk and the run on it. The student draws as the product does, from noise in four steps,
and each step is corrected towards the drawing where its path should end. What it sees at a noise
level is then what it will see when it is used: its own half-finished picture, not a true one with
noise on it, which already shows the details it should learn to draw.

What words leave open, the noise decides, by a rule that a network can read off it. Two others were
tried. Where a path's own end chose, all seeds soon ended in one place; where the base's walk from
the same noise chose, the student could not tell in time, and drew the places over one another.
"""

from __future__ import annotations

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
    """From noise to pictures; no gradient passes from one step to another."""
    x, steps = noise, []
    for now, then in pairwise(sampling.schedule(STEPS).tolist()):
        v = network(x, text, torch.full((len(x),), now, device=x.device)).float()
        after = x + (then - now) * v.detach()
        steps.append(Step(now, then, x, v, after))
        x = after
    return steps


def walk_loss(student: nn.Module, text: Tensor, noise: Tensor, goal: Tensor) -> Tensor:
    """Squared error of the velocity at each step of the student's own paths.

    A step counts by its length: that is how far an error of its velocity moves the picture.

    Args:
        student: (x [B, 256, 128], text, sigma [B]) -> velocity.
        text: the captions' states [B, tokens, HIDDEN].
        noise: where the paths begin [B, 256, 128].
        goal: where they should end, of the same shape.
    """
    goal = goal.float()
    errors = [
        (step.now - step.then) * (step.velocity - (step.before - goal) / step.now).square().mean()
        for step in walk(student, text, noise)
    ]
    return torch.stack(errors).sum()


def drawn_from(noise: Tensor, slot: Tensor) -> tuple[Tensor, Tensor]:
    """The background and the place that a picture gets, [B] each.

    Args:
        noise: where the paths begin [B, 256, 128].
        slot: the background that the words name, or OPEN.
    """
    channels = noise.mean(1).unflatten(1, (-1, 4)).mean(2)
    right, down = (channels.unflatten(1, (2, -1)).mean(2) > 0).long().unbind(1)
    free = channels[:, :OPEN].argmax(1)
    return torch.where(slot == OPEN, free, slot), 2 * right + down


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
        goal = targets.latents[concept, *drawn_from(noise, slot)]
        return {"walk": walk_loss(student, states, noise, goal)}

    return loop.run(student, draw, losses, plan)
