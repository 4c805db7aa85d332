"""Reads request bodies completely, within a size and a time, before the application sees them.

Requests to this application are small. A body over the limits is rejected without being kept.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from wuliart_contract.limits import MAX_REQUEST_BYTES
from wuliart_web.guard.error import GuardError

BODY_SECONDS: Final = 15.0
"""Time for a whole body to arrive."""

DISCARD_SECONDS: Final = 5.0
"""How long the rest of a rejected body is read and dropped, so that its client sees the answer."""


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """Reads a request's body.

    Args:
        headers: of the request; a declared length over the limit is rejected without reading.
        receive: the ASGI channel.

    Raises:
        GuardError: 413 over `MAX_REQUEST_BYTES`, 408 if it is not complete after `BODY_SECONDS`.
        ClientDisconnect: the client left before the body was complete.
    """
    declared = headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > MAX_REQUEST_BYTES:
        raise _too_large()
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if not message.get("more_body", False):
                    break
                if len(body) > MAX_REQUEST_BYTES:
                    raise _too_large()
    except TimeoutError:
        raise GuardError(
            408,
            f"The request's body was not complete after {BODY_SECONDS:.0f} s: send it at once.",
            "timeout",
        ) from None
    if len(body) > MAX_REQUEST_BYTES:
        raise _too_large()
    return bytes(body)


class Incoming:
    """A request's ASGI channel that tracks whether the body is complete.

    Args:
        receive: the channel.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._ended = False

    async def __call__(self) -> Message:
        """Returns the next message."""
        message = await self._receive()
        self._ended = not message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Reads and drops the rest of the body for at most `DISCARD_SECONDS`.

        A client that is still sending would see its connection reset instead of a response.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(DISCARD_SECONDS):
                while not self._ended:
                    await self()


def replay(body: bytes, receive: Receive) -> Receive:
    """Returns an ASGI channel with `body`, followed by the messages of `receive`."""
    replayed = False

    async def channel() -> Message:
        nonlocal replayed
        if replayed:
            return await receive()
        replayed = True
        return {"type": "http.request", "body": body, "more_body": False}

    return channel


def _too_large() -> GuardError:
    return GuardError(
        413,
        f"The request's body is larger than {MAX_REQUEST_BYTES} bytes: shorten the prompt.",
        "body_too_large",
    )
