"""One image as OpenAI's server-sent events, and the watch for clients that leave.

Owns the events' shapes and which previews become partial images. Knows nothing of requests'
fields, nor of how a model is chosen.
"""

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
from wuliart_web.openai_errors import translated
from wuliart_web.openai_request import BACKGROUND, FORMAT, QUALITY, SIZE

T = TypeVar("T")

LOOK: Final = {
    "size": SIZE,
    "quality": QUALITY,
    "background": BACKGROUND,
    "output_format": FORMAT,
}
"""What OpenAI's answers repeat about every image."""


async def unless_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> T:
    """What `work` returns or raises; if the client leaves first, cancels it.

    Raises ClientDisconnect if the client left. The request's body must have been read.
    """
    task = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(receive))
    try:
        await asyncio.wait((task, leaving), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientDisconnect
    finally:
        task.cancel()
        leaving.cancel()
        await asyncio.gather(task, leaving, return_exceptions=True)


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def text_of(data: bytes) -> str:
    """An image as `b64_json`."""
    return b64encode(data).decode("ascii")


def ours(image: GeneratedImage) -> dict[str, Any]:
    """What OpenAI's answers have no field for; its clients keep fields that they do not know."""
    left_out = [
        {"name": adapter.name, "reason": adapter.message} for adapter in image.skipped_adapters
    ]
    return {"seed": image.seed, **({"skipped_adapters": left_out} if left_out else {})}


def usage(started: Started) -> dict[str, Any]:
    """The prompt's tokens that the model read; images are not made of output tokens."""
    return {
        "input_tokens": started.prompt_tokens,
        "input_tokens_details": {"text_tokens": started.prompt_tokens, "image_tokens": 0},
        "output_tokens": 0,
        "output_tokens_details": {"text_tokens": 0, "image_tokens": 0},
        "total_tokens": started.prompt_tokens,
    }


def partial_steps(steps: int, wanted: int) -> tuple[int, ...]:
    """After which steps to send a partial image: evenly spread, the last as late as possible.

    Never after the last step, whose image follows at once; so there may be fewer than wanted.
    """
    there = steps - 1
    count = min(there, wanted)
    # The k-th of them ends the k-th of `count` equal shares, rounded up.
    return tuple(-(-k * there // count) for k in range(1, count + 1))


async def begun(drawing: AsyncEventStream[Event]) -> Started:
    """Reads on until generating begins."""
    event = await anext(drawing)
    while not isinstance(event, Started):
        event = await anext(drawing)
    return event


class ImageStream(StreamingResponse):
    """The rest of a generating that has begun, as it comes; the client's leaving cancels it."""

    media_type = "text/event-stream"

    def __init__(
        self,
        drawing: AsyncEventStream[Event],
        started: Started,
        partial_images: int,
        model_adapter: str | None,
    ) -> None:
        self._drawing = drawing
        events = _events(drawing, started, partial_images, model_adapter)
        # X-Accel-Buffering: proxies like nginx must not hold events back.
        super().__init__(events, headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        # Starlette leaves it to the next event to find out that nobody listens if the server
        # speaks a newer ASGI; but no further step may begin for nobody.
        async with self._drawing:
            with suppress(ClientDisconnect):
                await unless_gone(receive, self.stream_response(send))


async def _events(
    drawing: AsyncEventStream[Event],
    started: Started,
    partial_images: int,
    model_adapter: str | None,
) -> AsyncIterator[bytes]:
    chosen = partial_steps(started.steps, partial_images)
    try:
        async for event in drawing:
            if isinstance(event, Step) and event.step in chosen and event.preview is not None:
                index = chosen.index(event.step)
                yield _image("partial_image", event.preview, partial_image_index=index)
            elif isinstance(event, Completed):
                image = event.image
                yield _image("completed", image.data, usage=usage(started), **ours(image))
    except WuliArtError as error:
        # The status has been sent; this is what OpenAI's clients raise APIError for.
        yield _sent("error", translated(error, model_adapter).body())


def _image(kind: str, data: bytes, **more: object) -> bytes:
    fields = {"b64_json": text_of(data), "created_at": int(time.time()), **LOOK, **more}
    return _sent(f"image_generation.{kind}", fields)


def _sent(kind: str, fields: dict[str, Any]) -> bytes:
    data = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()
