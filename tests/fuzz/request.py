"""Fuzz target `request`: the bytes of a GenerateImageRequest, without gRPC's framing.

The bytes must be malformed, or lead to INVALID_REQUEST with a status that can be sent, or to a
request within the contract's limits.
"""

from __future__ import annotations

import math

from google.protobuf.message import DecodeError

from inference_server.errors import RequestError
from inference_server.service.status import MAX_STATUS_BYTES, to_status
from inference_server.service.validation import ANY_STEPS, validate
from tests.fuzz.choices import Choices
from wuliart.v1.image_generation_pb2 import AdapterWeight, GenerateImageRequest
from wuliart_contract.limits import MAX_ADAPTER_NAME_CHARACTERS, MAX_ADAPTERS, MAX_STEPS
from wuliart_contract.status import Reason

WEIGHTS = (1.0, 0.0, -4.0, 4.0, 4.0000005, math.inf, -math.inf, math.nan, 1e-45, 3e38)


def run(data: bytes) -> None:
    """Reads the bytes as a message; malformed ones, as choices that compose a message."""
    try:
        check(GenerateImageRequest.FromString(data))
    except DecodeError:
        check(compose(Choices(data)))


def check(message: GenerateImageRequest) -> None:
    """Validates one message."""
    try:
        request = validate(message, ANY_STEPS)
    except RequestError as error:
        assert error.reason is Reason.INVALID_REQUEST
        assert error.violations
        status = to_status(error)
        assert status.ByteSize() <= MAX_STATUS_BYTES + 1000
        return
    assert request.prompt.strip() and "\0" not in request.prompt
    assert 0 <= request.seed < 1 << 64
    assert 1 <= request.steps <= MAX_STEPS
    names = [adapter.name for adapter in request.adapters]
    assert len(set(names)) == len(names) <= MAX_ADAPTERS
    assert all(0 < len(name) <= MAX_ADAPTER_NAME_CHARACTERS for name in names)
    assert all(-4 <= adapter.weight <= 4 for adapter in request.adapters)


def compose(choices: Choices) -> GenerateImageRequest:
    """Returns a message with any values that its fields can hold."""
    message = GenerateImageRequest(prompt=choices.text(200))
    if choices.coin():
        message.steps = choices.number(32)
    if choices.coin():
        message.seed = choices.number(64)
    for _ in range(choices.below(8)):
        adapter = message.adapters.add(name=choices.text())
        if choices.coin():
            adapter.weight = choices.pick(WEIGHTS)
    message.preview, message.omit_recipe = choices.coin(), choices.coin()
    return message


def seeds() -> dict[str, bytes]:
    """Returns messages of each kind."""
    ink = AdapterWeight(name="ink", weight=0.5)
    messages = {
        "plain": GenerateImageRequest(prompt="a red fox"),
        "full": GenerateImageRequest(
            prompt="一只狐狸", seed=(1 << 64) - 1, steps=2, adapters=[ink], preview=True
        ),
        "twice": GenerateImageRequest(prompt="x", adapters=[ink, ink]),
        "many": GenerateImageRequest(prompt="x", adapters=[AdapterWeight(name=c) for c in "abcde"]),
        "blank": GenerateImageRequest(prompt="\u3164\u2800"),
        "control": GenerateImageRequest(prompt="a\x1b[2J", steps=9),
        "weight": GenerateImageRequest(adapters=[AdapterWeight(name="a", weight=math.nan)]),
    }
    return {name: message.SerializeToString() for name, message in messages.items()}
