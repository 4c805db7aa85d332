"""Builds request messages from arguments.

Only values that a message cannot carry are rejected here. The server validates everything else, so
that the rules are in one place.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from google.protobuf.message import Message

from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart_client._exceptions import InvalidRequest
from wuliart_contract.status import Reason


@dataclass(frozen=True, slots=True)
class AdapterWeight:
    """An adapter and its weight, from -4 to 4."""

    name: str
    weight: float = 1.0


AdapterLike = str | tuple[str, float] | AdapterWeight
"""An adapter by its name alone, by name and weight, or as an `AdapterWeight`."""


def _as_adapter(adapter: AdapterLike) -> AdapterWeight:
    if isinstance(adapter, AdapterWeight):
        return adapter
    if isinstance(adapter, str):
        return AdapterWeight(adapter)
    name, weight = adapter
    return AdapterWeight(name, weight)


def build_generate_request(
    prompt: str,
    seed: int | None,
    steps: int | None,
    adapters: Iterable[AdapterLike],
    preview: bool,
    metadata: bool,
) -> GenerateImageRequest:
    """The request that asks for an image.

    Raises TypeError for an argument of the wrong type, and InvalidRequest, listing every
    violation, for values that do not fit into the message (a negative seed, a lone surrogate).
    """
    if isinstance(adapters, str):
        raise TypeError(
            f"adapters must be a list of adapters, not a str: write adapters=[{adapters!r}]"
        )
    request = GenerateImageRequest(preview=preview, omit_recipe=not metadata)
    violations: list[tuple[str, str]] = []

    def put(message: Message, name: str, value: object, path: str) -> None:
        try:
            setattr(message, name, value)
        except ValueError as error:
            violations.append((path, f"cannot be sent: {error}"))

    put(request, "prompt", prompt, "prompt")
    if seed is not None:
        put(request, "seed", seed, "seed")
    if steps is not None:
        put(request, "steps", steps, "steps")
    for n, chosen in enumerate(map(_as_adapter, adapters)):
        adapter = request.adapters.add()
        put(adapter, "name", chosen.name, f"adapters[{n}].name")
        put(adapter, "weight", chosen.weight, f"adapters[{n}].weight")
    if violations:
        message = "; ".join(f"{path}: {what}" for path, what in violations)
        raise InvalidRequest(message, Reason.INVALID_REQUEST, violations=tuple(violations))
    return request
