"""Chooses a model's schedule: the operator's, its few-step LoRA's, or the checkpoint's.

A few-step LoRA is recognised by what its publishers gave it: its name, the layout of its keys, its
alpha and rank. Noise levels that were merely inherited (`schedule.is_for_few_steps`) are never used
in silence: with a LoRA that is not recognised they are an error that lists the choices, otherwise a
warning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from inference_server.errors import ModelError
from inference_server.model.schedule import (
    CHOICES,
    FAMILIES,
    Schedule,
    is_for_few_steps,
    of_checkpoint,
    parse,
)

METADATA: Final = "wuliart.schedule"
"""Header metadata with which a few-step LoRA states its schedule, in the form of `--schedule`."""

UNDISTILLED: Final = (
    "no few-step LoRA is given: unless one is fused into this checkpoint, its images need 20 to 50 "
    "steps and come out unfinished here. Give --turbo-lora or, for a checkpoint with one fused in, "
    "its --schedule"
)
"""Warning for a base model whose images get few steps."""

INHERITED: Final = (
    "the noise levels are the checkpoint's own, whose scheduler config is not one for few steps; a "
    "few-step LoRA generates well only at those it was trained on: give them with --schedule"
)
"""Warning for a few-step LoRA that is not recognised, at the operator's wish over such a config."""

TRAINED: Final = 1e-3
"""Noise levels this close are those a LoRA was trained on: model cards give three digits."""

_STEPS: Final = re.compile(r"(?<!\d)(\d{1,2})[-_ ]?steps?(?![a-z])")
_LIGHTNING_NAME: Final = re.compile(r"(?<![a-z])lightning(?![a-z])")
_TURBO_NAME: Final = re.compile(r"2512[-_ ]turbo[-_ ]lora(?![a-z])")
_LIGHTNING_KEY: Final = re.compile(r"transformer_blocks\.\d+\.[\w.]+\.lora_(down|up)\.weight")
_TURBO_KEY: Final = re.compile(
    r"diffusion_model\.transformer_blocks\.\d+\.[\w.]+\.lora_[AB]\.weight"
)
_RANK: Final = 64
_LIGHTNING_ALPHA: Final = 8.0
_FAMILY_OF: Final[Mapping[tuple[str, int], str]] = {
    ("Lightning", 4): "lightning",
    ("Lightning", 8): "lightning-8",
    ("Wuli-art Turbo", 4): "turbo",
    ("Wuli-art Turbo", 2): "turbo-2",
}


@dataclass(frozen=True, slots=True)
class ChosenSchedule:
    """A schedule and the reason for it.

    Attributes:
        schedule: the schedule.
        why: completes the log line "schedule NAME: ...".
        warning: says why images may come out wrong; empty if nothing speaks for that.
    """

    schedule: Schedule
    why: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class LoraTraits:
    """The traits that tell few-step LoRAs apart: file name, metadata, keys, ranks and alphas."""

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    ranks: frozenset[int] = frozenset()
    alphas: frozenset[float] = frozenset()

    @classmethod
    def of(cls, path: Path) -> LoraTraits:
        """Reads the traits of a safetensors file that has been parsed successfully before."""
        ranks, alphas = set[int](), set[float]()
        with safe_open(path, framework="pt") as file:
            keys = frozenset(file.keys())
            for key in keys:
                if key.endswith(".alpha"):
                    alphas.add(float(file.get_tensor(key)))
                elif len(shape := file.get_slice(key).get_shape()) == 2:
                    ranks.add(min(shape))
            metadata = file.metadata() or {}
        return cls(path.name, metadata, keys, frozenset(ranks), frozenset(alphas))

    @property
    def layout(self) -> str:
        """The family whose published files have this layout; empty if none has."""
        weights = [key for key in self.keys if not key.endswith(".alpha")]
        modulates = any(re.search(r"\.(img|txt)_mod\.", key) for key in weights)
        if not weights or self.ranks != {_RANK}:
            return ""
        if (
            all(map(_LIGHTNING_KEY.fullmatch, weights))
            and self.alphas == {_LIGHTNING_ALPHA}
            and not modulates
        ):
            return "Lightning"
        if all(map(_TURBO_KEY.fullmatch, weights)) and not self.alphas and modulates:
            return "Wuli-art Turbo"
        return ""

    @property
    def named(self) -> set[str]:
        """The families that the file's name mentions."""
        name = self.name.lower()
        families = {"Lightning": _LIGHTNING_NAME, "Wuli-art Turbo": _TURBO_NAME}
        return {family for family, pattern in families.items() if pattern.search(name)}

    @property
    def steps(self) -> set[int]:
        """The numbers of steps that the file's name mentions."""
        return {int(number) for number in _STEPS.findall(self.name.lower())}


def choose(
    given: str | None,
    turbo_lora: Path | None,
    image_tokens: int,
    config: Mapping[str, Any],
) -> ChosenSchedule:
    """Chooses the schedule.

    Args:
        given: the value of `--schedule`; None if it was left out.
        turbo_lora: the few-step LoRA that is fused into the checkpoint; None for none.
        image_tokens: tokens of one image, for the checkpoint's own schedule.
        config: the checkpoint's scheduler config.

    Raises:
        ModelError: `given` is not understood; or it was left out, the LoRA is not recognised and
            the config is not one for few steps; or the config makes no sense.
    """
    if given is not None:
        return _given(given, turbo_lora, image_tokens, config)
    if turbo_lora is None:
        return ChosenSchedule(
            of_checkpoint(image_tokens, config),
            "the checkpoint's own, as no few-step LoRA is given",
            UNDISTILLED,
        )
    traits = LoraTraits.of(turbo_lora)
    if (recognised := recognise(traits)) is not None:
        return recognised
    own = of_checkpoint(image_tokens, config)
    if not is_for_few_steps(config):
        raise ModelError(
            f"the noise levels of the Turbo LoRA {turbo_lora.name} are not known ({_seen(traits)}),"
            " and the checkpoint's scheduler config is not one for few steps: say which it was "
            f"trained on with --schedule: {CHOICES}"
        )
    return ChosenSchedule(
        own, f"the checkpoint's own, which is one for few steps, as {turbo_lora.name} is not known"
    )


def _given(
    text: str, turbo_lora: Path | None, image_tokens: int, config: Mapping[str, Any]
) -> ChosenSchedule:
    """Returns the operator's schedule, with a warning where it is known not to fit the weights."""
    try:
        schedule = parse(text)
    except ValueError as error:
        raise ModelError(str(error)) from None
    if schedule is None:
        schedule = of_checkpoint(image_tokens, config)
    why = "as --schedule says"
    # A config that cannot be read is no obstacle to a schedule that does not come from it.
    with suppress(ModelError):
        if turbo_lora is not None and (known := recognise(LoraTraits.of(turbo_lora))) is not None:
            trained = known.schedule
            count = min(schedule.steps, trained.steps)
            if schedule.same_levels(trained, count, TRAINED):
                return ChosenSchedule(schedule, why)
            return ChosenSchedule(
                schedule,
                why,
                f"--schedule {text.strip()} is not what {turbo_lora.name} was trained on: that is "
                f"{trained} ({known.why})",
            )
        inherited = not is_for_few_steps(config)
        if inherited and schedule.is_same(of_checkpoint(image_tokens, config), TRAINED):
            return ChosenSchedule(schedule, why, UNDISTILLED if turbo_lora is None else INHERITED)
    return ChosenSchedule(schedule, why)


def recognise(traits: LoraTraits) -> ChosenSchedule | None:
    """Returns the schedule of a few-step LoRA; None if its traits do not tell or disagree.

    Metadata of our own decides. Otherwise name and layout may each point to one family, the same
    one, and the name gives the number of steps. A file with Lightning's layout needs no number:
    both of Lightning's LoRAs have the same noise levels at four steps. A name alone does need one,
    since the families' names are ordinary words.

    Raises:
        ModelError: the metadata is not understood.
    """
    if (written := traits.metadata.get(METADATA)) is not None:
        try:
            schedule = parse(written)
        except ValueError as error:
            raise ModelError(f"{traits.name}: metadata {METADATA}: {error}") from None
        return None if schedule is None else ChosenSchedule(schedule, f"{traits.name} says so")
    families = traits.named | ({traits.layout} - {""})
    if len(families) != 1 or len(traits.steps) > 1:
        return None
    (family,) = families
    signs = [f"the name {traits.name}"] if family in traits.named else []
    signs += [f"its keys, rank {_RANK}"] if family == traits.layout else []
    if traits.layout == "Lightning":
        signs[-1] += " and alpha 8"
    if traits.steps:
        name = _FAMILY_OF.get((family, next(iter(traits.steps))))
    else:
        name = "lightning" if traits.layout == "Lightning" else None
        signs.append("four steps, as its name says no number")
    if name is None:
        return None
    return ChosenSchedule(FAMILIES[name], f"{family}'s, by {', '.join(signs)}")


def _seen(traits: LoraTraits) -> str:
    """Describes the traits of a LoRA that is not recognised."""
    named = " and ".join(sorted(traits.named)) or "no known family"
    steps = " and ".join(map(str, sorted(traits.steps))) or "no number of"
    layout = f"{traits.layout}'s" if traits.layout else "of no known family"
    return f"its name mentions {named} and {steps} steps, its layout is {layout}"
