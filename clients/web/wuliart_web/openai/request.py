"""The body of POST /v1/images/generations: its fields and their valid values.

Fields of OpenAI's API that this server cannot honour are rejected here. The inference server itself
checks the limits of prompt, steps and adapters, and that adapters exist.
"""

from __future__ import annotations

import json
from typing import Annotated, Final, Self

from fastapi import Request
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from wuliart_client import AdapterWeight
from wuliart_contract.limits import IMAGE_SIZE, JPEG_QUALITY
from wuliart_web.openai.errors import ApiError, invalid_fields, shown

SIZE: Final = f"{IMAGE_SIZE}x{IMAGE_SIZE}"
FORMAT: Final = "jpeg"
QUALITY: Final = "high"
BACKGROUND: Final = "opaque"
"""Properties of every image, in OpenAI's terms."""

SEEDS: Final = 1 << 64
"""Seeds are below this; the last one is followed by 0."""


def _only(*allowed: str | int, why: str) -> BeforeValidator:
    """Returns a validator that accepts `allowed` and null; `why` ends its message."""

    def check(value: object) -> object:
        # Types are compared too, because True == 1 and 95.0 == 95.
        if value is None or any(type(value) is type(a) and value == a for a in allowed):
            return value
        listed = " or ".join(repr(a) for a in allowed)
        raise ValueError(f"must be {listed} or absent: {why}" if allowed else why)

    return BeforeValidator(check)


class AdapterField(BaseModel):
    """An item of `adapters`: a name as GET /v1/models lists it, and a weight from -4 to 4."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str
    weight: float = 1.0


class ImageRequest(BaseModel):
    """The body. Null means absent; `seed`, `steps` and `adapters` extend OpenAI's fields."""

    model_config = ConfigDict(extra="forbid", strict=True)

    prompt: str
    model: str | None = None
    n: Annotated[int, Field(ge=1, le=10)] | None = None
    stream: bool | None = None
    partial_images: Annotated[int, Field(ge=0, le=3)] | None = None
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] | None = None
    steps: int | None = None
    adapters: list[AdapterField] | None = None

    # Accepted only with the value that every image has anyway.
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

    # Accepted without effect: there are no user accounts and no content filter here.
    user: str | None = None
    safety_identifier: str | None = None
    moderation: Annotated[str | None, _only("auto", "low", why="nothing is filtered here")] = None

    @model_validator(mode="after")
    def _streams_one(self) -> Self:
        if self.stream and self.images > 1:
            raise ApiError(
                400,
                f"Invalid value for 'n': a stream generates one image, not {self.images}: leave "
                "'n' out, or ask without 'stream'.",
                param="n",
                code="invalid_value",
            )
        if self.partial_images and not self.stream:
            raise ApiError(
                400,
                "Invalid value for 'partial_images': they are only sent in a stream: add "
                "'stream': true or leave them out.",
                param="partial_images",
                code="invalid_value",
            )
        return self

    @property
    def images(self) -> int:
        """Number of images to generate."""
        return self.n or 1

    def all_adapters(self, model_adapter: str | None) -> list[AdapterWeight]:
        """Returns the adapter that `model` names, if any, followed by `adapters`."""
        first = [] if model_adapter is None else [AdapterWeight(model_adapter)]
        return first + [
            AdapterWeight(adapter.name, adapter.weight) for adapter in self.adapters or ()
        ]


async def read_image_request(request: Request) -> ImageRequest:
    """Reads and validates the body, whose size the guard has checked.

    Raises:
        ApiError: 400, the body is not JSON, or a field is invalid.
    """
    # Browsers send other types to another site without a CORS preflight, so without this check any
    # web page could make a visitor's browser generate images here.
    given = request.headers.get("content-type", "")
    if given.partition(";")[0].strip().lower() != "application/json":
        raise ApiError(
            400,
            f"The body's type is {shown(given)}: send JSON with 'Content-Type: application/json'.",
            code="unsupported_content_type",
        )
    try:
        values = json.loads(await request.body())
    # ValueError also covers invalid UTF-8 and integers with thousands of digits.
    except (ValueError, RecursionError) as error:
        raise ApiError(400, f"The body is not JSON: {error}.", code="invalid_json") from error
    if not isinstance(values, dict):
        raise ApiError(400, "The body must be a JSON object with a 'prompt'.", code="invalid_json")
    try:
        return ImageRequest.model_validate(values)
    except ValidationError as error:
        raise invalid_fields(error.errors(include_url=False)) from error
