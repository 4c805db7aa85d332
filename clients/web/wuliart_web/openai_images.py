"""The door for apps that speak OpenAI's images API: images and models under /v1.

Owns the routes and what `model` means here. Knows nothing of the web page, nor of which process
serves it; everything is asked of the gRPC service, in the name of who asks.
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
from wuliart_web.login import ClientFor
from wuliart_web.openai_errors import DoorError, DoorRoute, model_not_found, translated
from wuliart_web.openai_request import SEEDS, ImageRequest, read_image_request
from wuliart_web.openai_stream import (
    LOOK,
    ImageStream,
    begun,
    ours,
    text_of,
    unless_gone,
    usage,
)

BASE: Final = "wuliart-turbo"
"""The base model of whichever server this is; its own name is accepted too."""

_METHODS: Final = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def router(client_for: ClientFor) -> APIRouter:
    """The routes under /v1; clients must belong to the event loop that serves them.

    Include it after other routes under /v1: what it does not know, it answers with 404. Failures
    are answered as {"error": {"message", "type", "param", "code"}}.
    """
    routes = APIRouter(prefix="/v1", route_class=DoorRoute, tags=["OpenAI"])

    @routes.post("/images/generations")
    async def generate(request: Request) -> Response:
        """Generate images from a prompt; see `ImageRequest` for the fields."""
        asked = await read_image_request(request)
        client = client_for(request.headers)
        adapter = await _adapter_of(client, asked.model)
        try:
            if asked.stream:
                return await _streamed(client, asked, adapter, request)
            drawn = await unless_gone(request.receive, _draw_all(client, asked, adapter))
        except WuliArtError as error:
            raise translated(error, adapter) from error
        return JSONResponse(drawn)

    @routes.get("/models")
    async def models(request: Request) -> Response:
        """The base model, then every adapter that can be generated with."""
        names = await _names(client_for(request.headers))
        return JSONResponse({"object": "list", "data": [_model(name) for name in names]})

    # An adapter in a subfolder has a slash in its name.
    @routes.get("/models/{name:path}")
    async def model(name: str, request: Request) -> Response:
        """One of them, by name."""
        if name != BASE and name not in await _names(client_for(request.headers)):
            raise model_not_found(name)
        return JSONResponse(_model(name))

    # Last: it takes everything, also a known path with another method.
    @routes.api_route("/{path:path}", methods=_METHODS, include_in_schema=False)
    async def unknown(request: Request) -> Response:
        raise DoorError(
            404,
            f"Unknown request: {request.method} {request.url.path}. There are POST "
            "/v1/images/generations, GET /v1/models and GET /v1/models/{name}.",
            code="unknown_url",
        )

    return routes


async def _names(client: AsyncClient) -> list[str]:
    """The base's name, then the drawable adapters'."""
    base = (await client.info()).model.name
    adapters = [adapter.name for adapter in await client.adapters() if adapter.usable]
    return [base, *(name for name in adapters if name != base)]


def _model(name: str) -> dict[str, Any]:
    # `created` must be a number, and no server tells when its model was made.
    return {"id": name, "object": "model", "created": 0, "owned_by": "wuliart"}


async def _adapter_of(client: AsyncClient, model: str | None) -> str | None:
    """The adapter that `model` names, None for the base; whether there is one, generating tells."""
    if model is None or model == BASE or model == (await client.info()).model.name:
        return None
    return model


async def _draw_all(
    client: AsyncClient, asked: ImageRequest, adapter: str | None
) -> dict[str, Any]:
    """OpenAI's answer with all images; what `ours` says of each is our addition.

    One after the other: others that wait get their turn in between, and a request alone can
    never fill the queue. The n-th seed is the first plus n, so that the first generates all again.
    """
    data: list[dict[str, Any]] = []
    seed = asked.seed
    for _ in range(asked.images):
        started, image = await _draw(client, asked, adapter, seed)
        data.append({"b64_json": text_of(image.data), **ours(image)})
        seed = (image.seed + 1) % SEEDS
    # The same for each image: the prompt is read once, however many are generated of it.
    return {"created": int(time.time()), "data": data, "usage": usage(started), **LOOK}


async def _draw(
    client: AsyncClient, asked: ImageRequest, adapter: str | None, seed: int | None
) -> tuple[Started, GeneratedImage]:
    async with client.generate(
        asked.prompt, seed=seed, steps=asked.steps, adapters=asked.all_adapters(adapter)
    ) as drawing:
        started = await begun(drawing)
        async for event in drawing:
            if isinstance(event, Completed):
                return started, event.image
    raise ProtocolError("the server ended the stream before the image was complete")


async def _streamed(
    client: AsyncClient, asked: ImageRequest, adapter: str | None, request: Request
) -> Response:
    """The answer begins when generating does, so that what fails before has a status of its own."""
    wanted = asked.partial_images or 0
    drawing = client.generate(
        asked.prompt,
        seed=asked.seed,
        steps=asked.steps,
        adapters=asked.all_adapters(adapter),
        preview=wanted > 0,
    )
    started = await unless_gone(request.receive, begun(drawing))
    return ImageStream(drawing, started, wanted, adapter)
