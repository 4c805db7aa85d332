"""The loop that trains for a fixed time: optimisers, learning rate, averages, curve.

Owns how a module is optimised; what is learned is the caller's loss. Used by the base, the Turbo
LoRA and the styles.
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

EMA = 0.999
"""Decay of the moving average whose weights are kept."""
WARMUP = 100
"""Steps of rising learning rate."""

Curve = list[dict[str, float]]


class Plan(NamedTuple):
    """How long and how fast."""

    seconds: float
    rate: float
    decay: float
    """The last share of the time, in which the learning rate falls to 2 %."""
    report: int
    """Steps between two lines of output."""
    replayed: bool = False
    """Whether a batch's work on a GPU is captured once and replayed: for many small kernels."""


def optimizers(model: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks and layers, AdamW for everything else."""
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
    made.append(torch.optim.AdamW(others, lr=adam_rate, betas=(0.9, 0.98), weight_decay=0.0))
    return made


class Average:
    """Exponential moving average of a module's trained parameters, fp32."""

    def __init__(self, model: nn.Module) -> None:
        self.live = [p for p in model.parameters() if p.requires_grad]
        self.kept = [p.detach().clone() for p in self.live]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """After each optimiser step; early averages are short."""
        weight = 1 - min(EMA, (step + 1) / (step + 10))
        torch._foreach_lerp_(self.kept, [p.detach() for p in self.live], weight)

    @torch.no_grad()
    def apply(self) -> None:
        """The averages become the parameters."""
        for live, kept in zip(self.live, self.kept, strict=True):
            live.copy_(kept)


def run(
    model: nn.Module,
    draw: Callable[[], Sequence[Tensor]],
    losses: Callable[..., dict[str, Tensor]],
    plan: Plan,
) -> Curve:
    """Trains `model` until the time is up and leaves it with its averaged parameters.

    Args:
        model: its parameters that require gradients are trained.
        draw: makes one batch.
        losses: that batch's losses by name; their sum is minimised.
        plan: how long and how fast.

    Returns:
        The curve; its last row tells steps and seconds of the whole.

    Raises:
        FloatingPointError: a loss is not finite.
    """
    steppers, average = optimizers(model, plan.rate), Average(model)
    rates = [[group["lr"] for group in stepper.param_groups] for stepper in steppers]
    device = average.live[0].device
    curve: Curve = []
    for parameter in average.live:
        parameter.grad = torch.zeros_like(parameter)
    work = Replay(average.live, losses) if plan.replayed and device.type == "cuda" else None
    # Compiling takes a minute; the clock, and with it the learning rate, starts after it.
    backward(average.live, losses, draw())
    began = time.monotonic()

    def report(step: int, parts: dict[str, Tensor]) -> None:
        facts = {name: float(part.detach()) for name, part in parts.items()}
        curve.append({"step": step, "seconds": time.monotonic() - began} | facts)
        print({name: round(value, 4) for name, value in curve[-1].items()}, flush=True)
        if not all(map(math.isfinite, facts.values())):
            raise FloatingPointError("a loss is not finite; lower the learning rate")

    step = 0
    while True:
        share = (time.monotonic() - began) / plan.seconds
        if share >= 1:
            break
        down = 1.0 if share < 1 - plan.decay else max(0.02, (1 - share) / plan.decay)
        factor = min(1.0, (step + 1) / WARMUP) * down
        for stepper, own in zip(steppers, rates, strict=True):
            for group, rate in zip(stepper.param_groups, own, strict=True):
                group["lr"] = rate * factor
        batch = draw()
        parts = work(batch) if work else backward(average.live, losses, batch)
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
