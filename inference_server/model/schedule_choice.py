"""Which schedule a model is generated with: the operator's, its few-step LoRA's, or the
checkpoint's.

A few-step LoRA is recognised by what its publishers gave it: its name, the layout of its keys, its
alpha and rank. Nothing is generated at noise levels that were merely inherited: a LoRA that is not
recognised, over the published scheduler config, is an error that lists the choices.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from safetensors import safe_open

from inference_server.errors import ModelError
from inference_server.model.schedule import (
    CHOICES,
    FAMILIES,
    Schedule,
    is_published,
    of_checkpoint,
    parse,
)

METADATA: Final = "wuliart.schedule"
"""Header metadata of a few-step LoRA that says its schedule itself, in the form of `--schedule`."""

UNDISTILLED: Final = (
    "no few-step LoRA is given: unless one is fused into this checkpoint, its images need 20 to 50 "
    "steps and come out unfinished here. Give --turbo-lora or, for a checkpoint with one fused in, "
    "its --schedule"
)
"""Warning of a base model that is generated in a few steps."""

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
    """A schedule, and what the operator should know of the choice.

    `why` completes "schedule NAME: ..."; `warning` is empty if images will be as they should.
    """

    schedule: Schedule
    why: str
    warning: str = ""


@dataclass(frozen=True, slots=True)
class LoraTraits:
    """What tells few-step LoRAs apart: the file's name, metadata, keys, ranks and alphas."""

    name: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    keys: frozenset[str] = frozenset()
    ranks: frozenset[int] = frozenset()
    alphas: frozenset[float] = frozenset()

    @classmethod
    def of(cls, path: Path) -> LoraTraits:
        """The traits of a safetensors file that was read before."""
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
        """The family whose published files are laid out like this one; empty if none are."""
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
        """The families that the file's name speaks of."""
        name = self.name.lower()
        families = {"Lightning": _LIGHTNING_NAME, "Wuli-art Turbo": _TURBO_NAME}
        return {family for family, pattern in families.items() if pattern.search(name)}

    @property
    def steps(self) -> set[int]:
        """The numbers of steps that the file's name speaks of."""
        return {int(number) for number in _STEPS.findall(self.name.lower())}


def choose(
    asked: str | None,
    turbo_lora: Path | None,
    image_tokens: int,
    config: Mapping[str, Any],
) -> ChosenSchedule:
    """Chooses the schedule.

    Args:
        asked: `--schedule`; None if it was left out.
        turbo_lora: the few-step LoRA that is fused into the checkpoint; None for none.
        image_tokens: of an image, for the checkpoint's own schedule.
        config: the checkpoint's scheduler config.

    Raises:
        ModelError: what was asked for is not understood; or the LoRA is not recognised and the
            config is the published one; or the config makes no sense.
    """
    if asked is not None:
        try:
            given = parse(asked)
        except ValueError as error:
            raise ModelError(str(error)) from None
        return ChosenSchedule(given or of_checkpoint(image_tokens, config), "as --schedule says")
    if turbo_lora is None:
        return ChosenSchedule(
            of_checkpoint(image_tokens, config),
            "the checkpoint's own, as no few-step LoRA is given",
            UNDISTILLED,
        )
    traits = LoraTraits.of(turbo_lora)
    if (recognised := recognise(traits)) is not None:
        return recognised
    if is_published(config):
        told = _told(traits)
        raise ModelError(
            f"the noise levels of the Turbo LoRA {turbo_lora.name} are not known ({told}), and "
            "those of the checkpoint are made for 20 to 50 steps: say which it was trained on with "
            f"--schedule: {CHOICES}"
        )
    return ChosenSchedule(
        of_checkpoint(image_tokens, config),
        f"the checkpoint's own, which is not the published one, as {turbo_lora.name} is not known",
    )


def recognise(traits: LoraTraits) -> ChosenSchedule | None:
    """The schedule of a few-step LoRA; None if its traits do not tell, or contradict each other.

    Metadata of our own decides. Otherwise the name and the layout each speak of one family at most,
    and of the same; the name says the number of steps. Only Lightning's layout does without: both
    of its LoRAs have the same noise levels at four steps.

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
        name = "lightning" if family == "Lightning" else None
        signs.append("four steps, as its name says no number")
    if name is None:
        return None
    return ChosenSchedule(FAMILIES[name], f"{family}'s, by {', '.join(signs)}")


def _told(traits: LoraTraits) -> str:
    """What was seen of a LoRA that is not recognised."""
    named = " and ".join(sorted(traits.named)) or "no known family"
    steps = " and ".join(map(str, sorted(traits.steps))) or "no number of"
    layout = f"{traits.layout}'s" if traits.layout else "of no known family"
    return f"its name speaks of {named} and {steps} steps, its layout is {layout}"
