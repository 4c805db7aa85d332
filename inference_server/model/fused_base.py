"""Few-step LoRAs that are fused into a base already, which only the base's file name tells."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from inference_server.errors import ModelError
from inference_server.model.schedule import CHOICES, FAMILIES, is_for_few_steps
from inference_server.model.schedule_choice import ChosenSchedule

_STEPS: Final = re.compile(r"(?<![\d.])([1-9])[-_ ]?steps?(?![a-z])")
_LIGHTNING: Final = re.compile(r"(?<![a-z])lightning(?![a-z])|scaled_comfyui_\d+steps")
"""lightx2v names its fused bases `..._fp8_e4m3fn_scaled_comfyui_4steps_v1.0`."""
_TURBO: Final = re.compile(r"(?<![a-z])turbo(?![a-z])")
_SCHEDULES: Final[Mapping[tuple[str, str], str]] = {
    ("Lightning", "4"): "lightning",
    ("Lightning", "8"): "lightning-8",
    ("Lightning", ""): "lightning",
    ("Wuli-art Turbo", "4"): "turbo",
    ("Wuli-art Turbo", "2"): "turbo-2",
}


class FusedBase(NamedTuple):
    """What a base's file name says about the few-step LoRA in it."""

    file: str
    signs: tuple[str, ...]
    """The parts of the name that say so."""
    schedule: str
    """A key of `FAMILIES`; empty if the name does not tell."""

    def refuse_another(self, turbo_lora: Path) -> ModelError:
        """Returns the error for a few-step LoRA that is given for such a base."""
        return ModelError(
            f"{self.file} has a few-step LoRA fused in, by its name ({', '.join(self.signs)}): a "
            f"second one, {turbo_lora.name}, would ruin the images. Leave --turbo-lora out, or "
            "give the base without one"
        )

    def choose(self, config: Mapping[str, Any]) -> ChosenSchedule | None:
        """Returns the schedule of the fused LoRA; None if the scheduler config has it.

        Raises:
            ModelError: neither the name nor the config tells.
        """
        says = f"{self.file} says {', '.join(self.signs)}"
        if self.schedule:
            return ChosenSchedule(FAMILIES[self.schedule], says)
        if is_for_few_steps(config):
            return None
        raise ModelError(
            f"{says}, but not which few-step LoRA was fused in: say which noise levels it was "
            f"trained on with --schedule: {CHOICES}"
        )


def fused_in(name: str) -> FusedBase | None:
    """Returns what a transformer's file name says of a fused few-step LoRA; None for nothing."""
    lower = name.lower()
    steps = {match[1] for match in _STEPS.finditer(lower)}
    families = {
        family: match[0]
        for family, sign in (("Lightning", _LIGHTNING), ("Wuli-art Turbo", _TURBO))
        if (match := sign.search(lower))
    }
    if not steps and not families:
        return None
    signs = (*families.values(), *(f"{count} steps" for count in sorted(steps)))
    schedule = ""
    if len(families) == 1 and len(steps) <= 1:
        schedule = _SCHEDULES.get((next(iter(families)), "".join(steps)), "")
    return FusedBase(name, signs, schedule)
