"""Noise levels: which sigmas the steps of a picture run through.

Owns the arithmetic of `FlowMatchEulerDiscreteScheduler` as far as Qwen-Image uses it, computed
once per step count from the checkpoint's scheduler config; knows nothing of latents.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues

UNSUPPORTED = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)


CONFIG_FILE = "scheduler/scheduler_config.json"
MAX_SHIFT = 20.0
"""Largest absolute value of a shift's exponent; Qwen-Image's is 1.1."""


def shift_mu(image_tokens: int, config: dict[str, Any]) -> float:
    """The exponent of the time shift for a picture of `image_tokens` tokens.

    Linear between (base_image_seq_len, base_shift) and (max_image_seq_len, max_shift), as
    `calculate_shift` in the stock pipeline, whose defaults these are.

    Raises:
        ModelError: a value makes no sense.
    """
    values = ConfigValues(CONFIG_FILE, config)
    low = values.integer("base_image_seq_len", 256, most=1 << 20)
    high = values.integer("max_image_seq_len", 4096, least=low + 1, most=1 << 24)
    base = values.number("base_shift", 0.5, least=-MAX_SHIFT, most=MAX_SHIFT)
    top = values.number("max_shift", 1.15, least=-MAX_SHIFT, most=MAX_SHIFT)
    slope = (top - base) / (high - low)
    return float(base + slope * (image_tokens - low))


def sigmas(steps: int, image_tokens: int, config: dict[str, Any]) -> tuple[float, ...]:
    """`steps` + 1 noise levels from 1 down to 0.

    sigma' = e^mu / (e^mu + 1/sigma - 1), the exponential time shift, over
    sigma = 1, ..., 1/steps; then, if the config names a `shift_terminal`, stretched so that the
    last one before 0 equals it.

    Raises:
        ModelError: the config asks for a schedule this engine does not know, or for one that makes
            no sense.
    """
    values = ConfigValues(CONFIG_FILE, config)
    for option in UNSUPPORTED:
        if values.flag(option):
            raise ModelError(f"scheduler option {option} is not supported by this server")
    levels = [1.0 - k / steps for k in range(steps)]
    if values.flag("use_dynamic_shifting"):
        kind = values.text("time_shift_type", "exponential")
        mu = shift_mu(image_tokens, config)
        if kind not in ("exponential", "linear"):
            raise ModelError(f"time_shift_type {kind!r} is not supported by this server")
        if abs(mu) > MAX_SHIFT:
            raise ModelError(f"{CONFIG_FILE} shifts {image_tokens} tokens by {mu:g}: it is damaged")
        scale = math.exp(mu) if kind == "exponential" else mu
    else:
        scale = values.number("shift", 1.0, least=1e-3, most=1e3)
    # sigma' = scale*sigma / (1 + (scale-1)*sigma) is the same function written without 1/sigma.
    levels = [scale * s / (1.0 + (scale - 1.0) * s) for s in levels]
    if values.has("shift_terminal"):
        terminal = values.number("shift_terminal", least=0.0, most=0.99)
        # With one step the only level is 1 and cannot be stretched; stock divides by zero here.
        stretch = (1.0 - levels[-1]) / (1.0 - terminal)
        if stretch > 0 and terminal:
            levels = [1.0 - (1.0 - s) / stretch for s in levels]
    falling = (*levels, 0.0)
    if falling[0] > 1.001 or not all(above > below for above, below in pairwise(falling)):
        raise ModelError(f"{CONFIG_FILE} gives noise levels that do not fall from 1 to 0")
    return falling


@dataclass(frozen=True)
class ScheduleTable:
    """The schedules of every step count, and the distinct timesteps among them.

    `rows` are the distinct noise levels at which the transformer runs (0 never is one); a
    timestep-only layer is evaluated once per row, and `row_of[n][k]` says which row step k of an
    n-step picture reads.
    """

    sigmas: dict[int, tuple[float, ...]]
    rows: tuple[float, ...]
    row_of: dict[int, tuple[int, ...]]

    @classmethod
    def build(cls, step_counts: range, image_tokens: int, config: dict[str, Any]) -> ScheduleTable:
        """Schedules for each of `step_counts` at `image_tokens` tokens a picture."""
        by_count = {n: sigmas(n, image_tokens, config) for n in step_counts}
        rows = tuple(sorted({s for levels in by_count.values() for s in levels[:-1]}, reverse=True))
        index = {level: row for row, level in enumerate(rows)}
        row_of = {n: tuple(index[s] for s in levels[:-1]) for n, levels in by_count.items()}
        return cls(by_count, rows, row_of)
