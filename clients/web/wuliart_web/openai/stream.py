"""One image as OpenAI's server-sent events, cancelled when its client leaves."""

from __future__ import annotations

import asyncio
import json
import time
from base64 import b64encode
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

from wuliart_client import (
    AsyncEventStream,
    Completed,
    Event,
    GeneratedImage,
    Started,
    Step,
    WuliArtError,
)
from wuliart_web.openai.errors import translated
from wuliart_web.openai.request import BACKGROUND, FORMAT, QUALITY, SIZE

T = TypeVar("T")

IMAGE_FIELDS: Final = {
    "size": SIZE,
    "quality": QUALITY,
    "background": BACKGROUND,
    "output_format": FORMAT,
}
"""Fields that OpenAI's responses repeat for every image."""


async def cancel_if_client_leaves(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """Awaits `work`, and cancels it if the client leaves first.

    Args:
        receive: the request's ASGI channel; its body must have been read.
        work: the work for the client.

    Returns:
        The result of `work`.

    Raises:
        ClientDisconnect: the client left.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnect(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def base64_text(data: bytes) -> str:
    """Returns an image as `b64_json`."""
    return b64encode(data).decode("ascii")


def extension_fields(image: GeneratedImage) -> dict[str, Any]:
    """Returns the fields that extend OpenAI's: `seed`, and `skipped_adapters` unless it is empty.

    OpenAI's clients keep fields that they do not know.
    """
    skipped = [
        {"name": adapter.name, "reason": adapter.message} for adapter in image.skipped_adapters
    ]
    return {"seed": image.seed, **({"skipped_adapters": skipped} if skipped else {})}


def usage(started: Started) -> dict[str, Any]:
    """Returns the number of prompt tokens that the model read; images have no output tokens."""
    return {
        "input_tokens": started.prompt_tokens,
        "input_tokens_details": {"text_tokens": started.prompt_tokens, "image_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "total_tokens": started.prompt_tokens,
    }


def partial_steps(steps: int, partial_images: int) -> tuple[int, ...]:
    """Returns the steps after which partial images are sent: evenly spread, and late.

    The last step has none, because its image follows at once; so there may be fewer than
    `partial_images`.
    """
    candidates = steps - 1
    count = min(candidates, partial_images)
    # The k-th one ends the k-th of `count` equal shares, rounded up.
    return tuple(-(-k * candidates // count) for k in range(1, count + 1))


async def until_started(events: AsyncEventStream[Event]) -> Started:
    """Reads events until generation starts."""
    event = await anext(events)
    while not isinstance(event, Started):
        event = await anext(events)
    return event


class ImageStream(StreamingResponse):
    """Streams the remaining events of a started generation, and cancels it if the client leaves.

    Args:
        events: of the generation, which has started.
        started: its event.
        partial_images: number of partial images to send.
        model_adapter: the adapter that the request's `model` names, None for the base model.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncEventStream[Event],
        started: Started,
        partial_images: int,
        model_adapter: str | None,
    ) -> None:
        self._events = events
        chunks = _server_sent_events(events, started, partial_images, model_adapter)
        # X-Accel-Buffering: proxies like nginx must not hold events back.
        super().__init__(chunks, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        # With newer ASGI servers, Starlette notices that the client has left only at the next
        # event, after another step.
        async with self._events:
            with suppress(ClientDisconnect):
                await cancel_if_client_leaves(receive, self.stream_response(send))


async def _server_sent_events(
    events: AsyncEventStream[Event],
    started: Started,
    partial_images: int,
    model_adapter: str | None,
) -> AsyncIterator[bytes]:
    chosen = partial_steps(started.steps, partial_images)
    try:
        async for event in events:
            if isinstance(event, Step) and event.step in chosen and event.preview is not None:
                index = chosen.index(event.step)
                yield _image_event("partial_image", event.preview, partial_image_index=index)
            elif isinstance(event, Completed):
                image = event.image
                yield _image_event(
                    "completed", image.data, usage=usage(started), **extension_fields(image)
                )
    except WuliArtError as error:
        # The status has been sent already; OpenAI's clients raise APIError for this event.
        yield _event("error", translated(error, model_adapter).body())


def _image_event(kind: str, data: bytes, **more: object) -> bytes:
    fields = {"b64_json": base64_text(data), "created_at": int(time.time()), **IMAGE_FIELDS, **more}
    return _event(f"image_generation.{kind}", fields)


def _event(kind: str, fields: dict[str, Any]) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()
