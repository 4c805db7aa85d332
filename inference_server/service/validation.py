"""Checks the fields of a request against the contract's limits, and reports all violations."""

from __future__ import annotations

import math
import secrets
import unicodedata

from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError, Violation
from inference_server.scheduler.image_request import ImageRequest
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart_contract.limits import (
    MAX_ADAPTER_NAME_CHARACTERS,
    MAX_ADAPTER_WEIGHT,
    MAX_ADAPTERS,
    MAX_PROMPT_CHARACTERS,
    MAX_STEPS,
    MIN_STEPS,
)
from wuliart_contract.status import Reason
from wuliart_contract.text import is_blank

ANY_STEPS = range(MIN_STEPS, MAX_STEPS + 1)
"""The numbers of steps of any model: for a fleet's front; its replicas check again."""

RANDOM_SEED_BITS = 32
"""Size of a random seed: short enough to write down and type again."""

TEXT_CONTROLS = frozenset("\t\n\r")


def validate(message: GenerateImageRequest, counts: range) -> ImageRequest:
    """Returns the request with its defaults filled in.

    Args:
        message: as it arrived.
        counts: the numbers of steps that the model's schedule supports; the last is the default.

    Raises:
        RequestError: INVALID_REQUEST with every violation.
    """
    steps = message.steps if message.HasField("steps") else counts[-1]
    violations = [*_prompt(message.prompt), *_steps(steps, counts), *_adapters(message)]
    if violations:
        listed = "; ".join(f"{v.field} {v.description}" for v in violations)
        raise RequestError(Reason.INVALID_REQUEST, listed, violations=violations)
    seed = message.seed if message.HasField("seed") else secrets.randbits(RANDOM_SEED_BITS)
    adapters = tuple(
        AdapterWeight(a.name, a.weight if a.HasField("weight") else 1.0) for a in message.adapters
    )
    return ImageRequest(
        prompt=message.prompt,
        seed=seed,
        steps=steps,
        adapters=adapters,
        preview=message.preview,
        recipe=not message.omit_recipe,
    )


def _prompt(prompt: str) -> list[Violation]:
    if len(prompt) > MAX_PROMPT_CHARACTERS:
        return [
            Violation(
                "prompt",
                f"has {len(prompt)} characters; {MAX_PROMPT_CHARACTERS} are allowed",
            )
        ]
    categories = {unicodedata.category(c) for c in prompt if c not in TEXT_CONTROLS}
    if categories & {"Cc", "Cs"}:
        return [Violation("prompt", "contains control characters; it must be text")]
    if is_blank(prompt):
        return [Violation("prompt", "is empty; say what the image shows")]
    return []


def _steps(steps: int, counts: range) -> list[Violation]:
    if steps in counts:
        return []
    allowed = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else f"{counts[0]}"
    return [Violation("steps", f"is {steps}; it must be {allowed}")]


def _adapters(message: GenerateImageRequest) -> list[Violation]:
    found: list[Violation] = []
    if len(message.adapters) > MAX_ADAPTERS:
        found.append(
            Violation(
                "adapters",
                f"has {len(message.adapters)} entries; {MAX_ADAPTERS} are allowed",
            )
        )
    seen: set[str] = set()
    for index, adapter in enumerate(message.adapters):
        path = f"adapters[{index}]"
        if not adapter.name:
            found.append(Violation(f"{path}.name", "is empty"))
        elif len(adapter.name) > MAX_ADAPTER_NAME_CHARACTERS:
            found.append(
                Violation(
                    f"{path}.name",
                    f"has {len(adapter.name)} characters; "
                    f"{MAX_ADAPTER_NAME_CHARACTERS} are allowed",
                )
            )
        elif adapter.name in seen:
            found.append(Violation(f"{path}.name", f"repeats {adapter.name!r}"))
        seen.add(adapter.name)
        if adapter.HasField("weight") and not (
            math.isfinite(adapter.weight) and abs(adapter.weight) <= MAX_ADAPTER_WEIGHT
        ):
            found.append(
                Violation(
                    f"{path}.weight",
                    f"is {adapter.weight:.9g}; it must be "
                    f"{-MAX_ADAPTER_WEIGHT:g} to {MAX_ADAPTER_WEIGHT:g}",
                )
            )
    return found
