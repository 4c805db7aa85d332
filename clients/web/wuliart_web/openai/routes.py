"""The routes of the OpenAI-compatible API: images and models under /v1.

An adapter's name may stand for `model`. All work is done by the gRPC service, under the token of
the request.
"""

from __future__ import annotations

import time
from typing import Any, Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse

from wuliart_client import (
    AsyncClient,
    Completed,
    GeneratedImage,
    ProtocolError,
    Started,
    WuliArtError,
)
from wuliart_web.clients import ClientFor
from wuliart_web.openai.errors import ApiError, ApiRoute, model_not_found, translated
from wuliart_web.openai.request import SEEDS, ImageRequest, read_image_request
from wuliart_web.openai.stream import (
    IMAGE_FIELDS,
    ImageStream,
    base64_text,
    cancel_if_client_leaves,
    extension_fields,
    until_started,
    usage,
)

BASE: Final = "wuliart-turbo"
"""Name of the base model on every server; the model's own name is accepted too."""

_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def router(client_for: ClientFor) -> APIRouter:
    """Returns the routes under /v1, which answer unknown paths below it with 404.

    Errors have the shape {"error": {"message", "type", "param", "code"}}.

    Args:
        client_for: returns the client for a request, on the event loop that serves it.
    """
    routes = APIRouter(prefix="/v1", route_class=ApiRoute, tags=["OpenAI"])

    @routes.post("/images/generations")
    async def generate(request: Request) -> Response:
        """Generates images from a prompt; see `ImageRequest` for the fields."""
        body = await read_image_request(request)
        client = client_for(request.headers)
        adapter = await _model_adapter(client, body.model)
        try:
            if body.stream:
                return await _stream(client, body, adapter, request)
            result = await cancel_if_client_leaves(
                request.receive, _generate_all(client, body, adapter)
            )
        except WuliArtError as error:
            raise translated(error, adapter) from error
        return JSONResponse(result)

    @routes.get("/models")
    async def models(request: Request) -> Response:
        """Lists the base model and every usable adapter."""
        names = await _names(client_for(request.headers))
        return JSONResponse({"object": "list", "data": [_model(name) for name in names]})

    # An adapter in a subfolder has a slash in its name.
    @routes.get("/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        """Describes the base model or a usable adapter."""
        if name != BASE and name not in await _names(client_for(request.headers)):
            raise model_not_found(name)
        return JSONResponse(_model(name))

    # Last, because it matches every path, and known paths with other methods.
    @routes.api_route("/{path:path}", methods=_METHODS, include_in_schema=False)
    async def unknown(request: Request) -> Response:
        raise ApiError(
            404,
            f"Unknown request: {request.method} {request.url.path}. There are POST "
            "/v1/images/generations, GET /v1/models and GET /v1/models/{name}.",
            code="unknown_url",
        )

    return routes


async def _names(client: AsyncClient) -> list[str]:
    """Returns the base model's name, then those of the usable adapters."""
    base = (await client.info()).model.name
    adapters = [adapter.name for adapter in await client.adapters() if adapter.usable]
    return [base, *(name for name in adapters if name != base)]


def _model(name: str) -> dict[str, Any]:
    # `created` must be a number, and the service does not know when its model was made.
    return {"id": name, "object": "model", "created": 0, "owned_by": "wuliart"}


async def _model_adapter(client: AsyncClient, model: str | None) -> str | None:
    """Returns the adapter that `model` names, None for the base; it may not exist."""
    if model is None or model == BASE or model == (await client.info()).model.name:
        return None
    return model


async def _generate_all(
    client: AsyncClient, body: ImageRequest, adapter: str | None
) -> dict[str, Any]:
    """Generates all images of a request and returns OpenAI's response.

    The images are generated one after another, so that other clients get their turn in between and
    one request cannot fill the queue. Their seeds count up from the first one, which therefore
    reproduces all of them.
    """
    data: list[dict[str, Any]] = []
    seed = body.seed
    for _ in range(body.images):
        started, image = await _generate(client, body, adapter, seed)
        data.append({"b64_json": base64_text(image.data), **extension_fields(image)})
        seed = (image.seed + 1) % SEEDS
    # All images have the same prompt, and so the same usage.
    return {"created": int(time.time()), "data": data, "usage": usage(started), **IMAGE_FIELDS}


async def _generate(
    client: AsyncClient, body: ImageRequest, adapter: str | None, seed: int | None
) -> tuple[Started, GeneratedImage]:
    async with client.generate(
        body.prompt, seed=seed, steps=body.steps, adapters=body.all_adapters(adapter)
    ) as events:
        started = await until_started(events)
        async for event in events:
            if isinstance(event, Completed):
                return started, event.image
    raise ProtocolError("the server ended the stream before the image was complete")


async def _stream(
    client: AsyncClient, body: ImageRequest, adapter: str | None, request: Request
) -> Response:
    """Returns a stream once generation has started: earlier errors get a status of their own."""
    partial_images = body.partial_images or 0
    events = client.generate(
        body.prompt,
        seed=body.seed,
        steps=body.steps,
        adapters=body.all_adapters(adapter),
        preview=partial_images > 0,
    )
    started = await cancel_if_client_leaves(request.receive, until_started(events))
    return ImageStream(events, started, partial_images, adapter)
