"""A request's fields against the contract's limits, without a server."""

from __future__ import annotations

import math
import unicodedata

import pytest

from inference_server.adapters import records
from inference_server.errors import RequestError
from inference_server.service.validation import RANDOM_SEED_BITS, validate
from wuliart.v1.image_generation_pb2 import AdapterWeight, GenerateImageRequest
from wuliart_contract.status import Reason

COUNTS = range(1, 5)
"""Steps of a schedule that was made for four."""


def request(prompt: str = "a cat", **fields: object) -> GenerateImageRequest:
    return GenerateImageRequest(prompt=prompt, **fields)  # type: ignore[arg-type]


def violations(message: GenerateImageRequest) -> dict[str, str]:
    with pytest.raises(RequestError) as caught:
        validate(message, COUNTS)
    assert caught.value.reason is Reason.INVALID_REQUEST
    found = {v.field: v.description for v in caught.value.violations}
    assert len(found) == len(caught.value.violations)
    for field, description in found.items():
        assert field in caught.value.message and description in caught.value.message
    return found


def test_defaults_are_filled_in() -> None:
    draw = validate(request(adapters=[AdapterWeight(name="ink")]), COUNTS)
    assert draw.prompt == "a cat"
    assert draw.steps == 4
    assert draw.adapters == (records.AdapterWeight("ink", 1.0),)
    assert draw.preview is False
    assert 0 <= draw.seed < 2**RANDOM_SEED_BITS


def test_random_seeds_differ() -> None:
    assert len({validate(request(), COUNTS).seed for _ in range(20)}) > 15


def test_what_is_given_is_kept() -> None:
    adapters = [AdapterWeight(name="b", weight=-2.0), AdapterWeight(name="a", weight=0.0)]
    draw = validate(request(seed=0, steps=1, adapters=adapters, preview=True), COUNTS)
    assert (draw.seed, draw.steps, draw.preview) == (0, 1, True)
    assert draw.adapters == (records.AdapterWeight("b", -2.0), records.AdapterWeight("a", 0.0))


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_every_seed_is_taken(seed: int) -> None:
    assert validate(request(seed=seed), COUNTS).seed == seed


def test_steps_are_the_schedules() -> None:
    """A two-step LoRA takes at most two steps; a written-out schedule takes no fewer."""
    assert validate(request(), range(1, 3)).steps == 2
    for counts, given, expected in ((range(1, 3), 4, "1 to 2"), (range(2, 3), 1, "must be 2")):
        with pytest.raises(RequestError, match=expected):
            validate(request(steps=given), counts)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_every_step_count_is_taken(steps: int) -> None:
    assert validate(request(steps=steps), COUNTS).steps == steps


@pytest.mark.parametrize(
    "prompt",
    [
        "x",
        "山水画，一只猫",
        "🐈",
        "👩‍🚀",
        "two\nlines\r\nand\ta tab",
        "?!",
        "1",
        "naïve café, e\u0301",
        "שלום עולם",
        "a\u200bb",
        "\u202eright to left",
        "字" * 2000,
        "🐈" * 2000,
        "a" * 1999 + "\n",
    ],
)
def test_text_is_a_prompt(prompt: str) -> None:
    assert validate(request(prompt), COUNTS).prompt == prompt


@pytest.mark.parametrize(
    "prompt",
    ["", " ", "\n\t\r ", "\u3000", "\u00a0", "\u200b", "\u200b\u200d\ufeff", "\u2028", "\u00ad"],
)
def test_nothing_visible_is_empty(prompt: str) -> None:
    assert "empty" in violations(request(prompt))["prompt"]


@pytest.mark.parametrize("prompt", ["\ufe0f", "\u3164", "\u2800", "\u115f\u1160"])
def test_invisible_letters_and_marks_are_empty(prompt: str) -> None:
    """Variation selector, Hangul fillers, blank Braille: of a visible category, yet blank."""
    assert unicodedata.category(prompt[0]) in ("Mn", "Lo", "So")
    assert "empty" in violations(request(prompt))["prompt"]


@pytest.mark.parametrize("control", ["\0", "\x01", "\x07", "\x1b", "\x7f", "\x80", "\x9f"])
def test_control_characters_are_not_text(control: str) -> None:
    assert "control" in violations(request(f"a cat{control}"))["prompt"]


def test_a_long_prompt_says_how_long() -> None:
    assert "2001" in violations(request("x" * 2001))["prompt"]


@pytest.mark.parametrize("steps", [0, 5, 2**32 - 1])
def test_steps_out_of_range(steps: int) -> None:
    assert str(steps) in violations(request(steps=steps))["steps"]


@pytest.mark.parametrize("weight", [math.nan, math.inf, -math.inf, 4.1, -4.1, 1e30])
def test_weights_out_of_range(weight: float) -> None:
    adapters = [AdapterWeight(name="good"), AdapterWeight(name="bad", weight=weight)]
    assert list(violations(request(adapters=adapters))) == ["adapters[1].weight"]


@pytest.mark.parametrize("weight", [4.0, -4.0, 0.0, -0.0, 1e-30])
def test_weights_in_range(weight: float) -> None:
    validate(request(adapters=[AdapterWeight(name="ink", weight=weight)]), COUNTS)


def test_a_weight_a_hair_too_large_is_not_called_4() -> None:
    described = violations(request(adapters=[AdapterWeight(name="ink", weight=4.0000005)]))
    assert not described["adapters[0].weight"].startswith("is 4;")


def test_adapters_too_many_repeated_unnamed_and_long() -> None:
    four = [AdapterWeight(name=name) for name in "abcd"]
    validate(request(adapters=four), COUNTS)
    assert list(violations(request(adapters=[*four, AdapterWeight(name="e")]))) == ["adapters"]
    assert list(violations(request(adapters=[*four[:2], four[0]]))) == ["adapters[2].name"]
    unnamed = [AdapterWeight(name="a"), AdapterWeight()]
    assert list(violations(request(adapters=unnamed))) == ["adapters[1].name"]
    validate(request(adapters=[AdapterWeight(name="n" * 200)]), COUNTS)
    long = [AdapterWeight(name="n" * 201)]
    assert "201" in violations(request(adapters=long))["adapters[0].name"]


def test_every_violation_at_once() -> None:
    adapters = [AdapterWeight(name="a", weight=w) for w in (1.0, math.nan, -5.0, 0.5, 0.5)]
    found = violations(request("\0", steps=9, adapters=adapters))
    assert set(found) == {
        "prompt",
        "steps",
        "adapters",
        *(f"adapters[{n}].name" for n in (1, 2, 3, 4)),
        "adapters[1].weight",
        "adapters[2].weight",
    }
