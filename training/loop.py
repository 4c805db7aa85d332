"""The training loop: optimisers, learning rate, weight averages, and curve, for a fixed time.

Base, Turbo LoRA, and style adapters share it; each passes its own loss.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from training.muon import Muon
from training.replay import Replay, backward
from training.team import Team

EMA = 0.999
"""Decay of the moving average of the weights; training ends with the averaged weights."""
WARMUP = 100
"""Steps of rising learning rate."""

Curve = list[dict[str, float]]


class Plan(NamedTuple):
    """Duration and learning rate of a run."""

    seconds: float
    rate: float
    decay: float
    """Final share of the time, over which the learning rate falls to 2 %."""
    report: int
    """Steps between two lines of output and of the curve."""
    team: Team
    """The processes that train together."""
    until: float = math.inf
    """Time, in seconds since the epoch, by which training ends even if `seconds` are not over."""
    replayed: bool = False
    """True captures a batch's GPU work as a CUDA graph; worthwhile for many small kernels."""


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Returns Muon for the matrices inside blocks and layers, and AdamW for all else."""
    matrices, others = [], []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = "transformer_blocks" in name or "language_model.layers" in name
        whole = inside and parameter.dim() == 2 and "lora" not in name
        (matrices if whole else others).append(parameter)
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(Muon(matrices, lr=rate))
    adam_rate = rate / 2 if matrices else rate
    fused = all(parameter.is_cuda for parameter in others)
    made.append(
        torch.optim.AdamW(others, adam_rate, betas=(0.9, 0.98), weight_decay=0.0, fused=fused)
    )
    return made


class Average:
    """Exponential moving average of a module's trained parameters, fp32."""

    def __init__(self, model: nn.Module) -> None:
        self.live = [p for p in model.parameters() if p.requires_grad]
        self.kept = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Includes the current parameters; called after each step. Early averages are short."""
        weight = 1 - min(EMA, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.kept, [p.detach() for p in self.live], weight)

    @torch.no_grad()
    def apply(self) -> None:
        """Replaces the parameters by their averages."""
        for live, kept in zip(self.live, self.kept, strict=True):
            live.copy_(kept)


def run(
    model: nn.Module,
    sample: Callable[[], Sequence[Tensor]],
    losses: Callable[..., dict[str, Tensor]],
    plan: Plan,
) -> Curve:
    """Trains `model` until the time is up and leaves it with its averaged parameters.

    Args:
        model: Module whose parameters that require gradients are trained.
        sample: Makes one batch.
        losses: Returns a batch's losses by name; their sum is minimised.
        plan: Duration and learning rate.

    Returns:
        The curve; its last row holds the total steps and seconds.

    Raises:
        FloatingPointError: A loss is not finite.
    """
    steppers, average = optimizers(model, plan.rate), Average(model)
    rates = [[group["lr"] for group in stepper.param_groups] for stepper in steppers]
    device = average.live[0].device
    curve: Curve = []
    for parameter in average.live:
        parameter.grad = torch.zeros_like(parameter)
    work = Replay(average.live, losses) if plan.replayed and device.type == "cuda" else None
    # Compiling takes a minute, and the leading process may still evaluate its last run; the clock,
    # which the learning rate follows, starts when all processes are here.
    backward(average.live, losses, sample())
    gradients = [parameter.grad for parameter in average.live]
    plan.team.average(gradients)
    began, seconds = time.monotonic(), min(plan.seconds, plan.until - time.time())

    def report(step: int, parts: dict[str, Tensor]) -> None:
        facts = {name: float(part.detach()) for name, part in parts.items()}
        curve.append({"step": step, "seconds": time.monotonic() - began} | facts)
        if plan.team.leads:
            print({name: round(value, 4) for name, value in curve[-1].items()}, flush=True)
        if not all(map(math.isfinite, facts.values())):
            raise FloatingPointError("a loss is not finite; lower the learning rate")

    step, share = 0, 0.0
    while share < 1:
        down = 1.0 if share < 1 - plan.decay else max(0.02, (1 - share) / plan.decay)
        factor = min(1.0, (step + 1) / WARMUP) * down
        for stepper, own in zip(steppers, rates, strict=True):
            for group, rate in zip(stepper.param_groups, own, strict=True):
                group["lr"] = rate * factor
        batch = sample()
        parts = work(batch) if work else backward(average.live, losses, batch)
        share = plan.team.average(gradients, (time.monotonic() - began) / seconds)
        nn.utils.clip_grad_norm_(average.live, 1.0)
        for stepper in steppers:
            stepper.step()
        average.update(step)
        step += 1
        if step % plan.report == 0:
            report(step, parts)
    if not curve or curve[-1]["step"] != step:
        report(step, parts)
    average.apply()
    return curve
