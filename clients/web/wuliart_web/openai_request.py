"""The body of POST /v1/images/generations: which fields there are and what they may say.

Owns what is refused because no image of ours could honour it. The limits of prompt, steps and
adapters are the server's own; knows nothing of them, nor of which models exist.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Self

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wuliart_client import AdapterWeight
from wuliart_contract.limits import IMAGE_SIZE, JPEG_QUALITY
from wuliart_web.openai_errors import DoorError, invalid_fields, shown

SIZE: Final = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
FORMAT: Final = "jpeg"
QUALITY: Final = "high"
BACKGROUND: Final = "opaque"
"""What every image is, in OpenAI's words."""

SEEDS: Final = 1 << 64
"""Seeds are below this; counting up from the last goes on at 0."""


def _only(*allowed: str | int, why: str) -> BeforeValidator:
    """Lets `allowed` and null pass; `why` completes the sentence "must be …"."""

    def check(value: object) -> object:
        # The type too, because True == 1 and 95.0 == 95.
        if value is None or any(type(value) is type(a) and value == a for a in allowed):
            return value
        listed = " or ".join(repr(a) for a in allowed)
        raise ValueError(f"must be {listed} or absent: {why}" if allowed else why)

    return BeforeValidator(check)


class AdapterField(BaseModel):
    """One of `adapters`: a name as GET /v1/models lists it, and its weight from -2 to 2."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    weight: float = 1.0


class ImageRequest(BaseModel):
    """What may be asked for. Null means absent; `seed`, `steps` and `adapters` are our own."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = None
    steps: int | None = None
    adapters: list[AdapterField] | None = None

    # Only what is true of every image anyway is accepted.
    size: Annotated[str | None, _only(SIZE, "auto", why=f"every image is {SIZE}")] = None
    output_format: Annotated[str | None, _only(FORMAT, why="every image is a JPEG")] = None
    output_compression: Annotated[
        int | None, _only(JPEG_QUALITY, why=f"every JPEG has quality {JPEG_QUALITY}")
    ] = None
    response_format: Annotated[
        str | None, _only("b64_json", why="images are sent, not stored, so they have no URL")
    ] = None
    quality: Annotated[
        str | None, _only("auto", "standard", QUALITY, why="use 'steps' (1 to 4) for drafts")
    ] = None
    background: Annotated[
        str | None, _only("auto", BACKGROUND, why="a JPEG has no transparency")
    ] = None
    style: Annotated[
        None, _only(why="is not offered: use 'adapters', or an adapter's name as 'model'")
    ] = None

    # These say who asks, which changes nothing here, and how strictly a filter that we do not
    # have should judge.
    user: str | None = None
    safety_identifier: str | None = None
    moderation: Annotated[str | None, _only("auto", "low", why="nothing is filtered here")] = None

    @model_validator(mode="after")
    def _streams_one(self) -> Self:
        if self.stream and self.images > 1:
            raise DoorError(
                400,
                f"Invalid value for 'n': a stream generates one image, not {self.images}: leave "
                "'n' out, or ask without 'stream'.",
                param="n",
                code="invalid_value",
            )
        if self.partial_images and not self.stream:
            raise DoorError(
                400,
                "Invalid value for 'partial_images': they are only sent in a stream: add "
                "'stream': true or leave them out.",
                param="partial_images",
                code="invalid_value",
            )
        return self

    @property
    def images(self) -> int:
        """How many images to generate."""
        return self.n or 1

    def all_adapters(self, model_adapter: str | None) -> list[AdapterWeight]:
        """The adapter that was named as the model, then the others."""
        first = [] if model_adapter is None else [AdapterWeight(model_adapter)]
        return first + [
            AdapterWeight(adapter.name, adapter.weight) for adapter in self.adapters or ()
        ]


async def read_image_request(request: Request) -> ImageRequest:
    """The body, checked.

    Its size is the guard's business.

    Raises:
        DoorError: it is not as it must be.
    """
    # Without this, any web page could make a visitor's browser generate here: browsers ask first
    # only before they send this type.
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise DoorError(
            400,
            f"The body's type is {shown(given)}: send JSON with 'Content-Type: application/json'.",
            code="unsupported_content_type",
        )
    try:
        values = json.loads(await request.body())
    # ValueError: also bytes that are no text, and numbers of thousands of digits.
    except (ValueError, RecursionError) as error:
        raise DoorError(400, f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(values, dict):
        raise DoorError(400, "The body must be a JSON object with a 'prompt'.", code="invalid_json")
    try:
        return ImageRequest.model_validate(values)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False)) from error
