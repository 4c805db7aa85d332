"""Request bodies: read whole, within a size and a time, before anything else sees them.

Requests to this application are small. What exceeds the limits is refused without being kept.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive

from wuliart.contract.limits import MAX_REQUEST_BYTES
from wuliart_web.guard_error import GuardError

BODY_SECONDS: Final = 15.0
"""Time for a whole body to arrive."""

DISCARD_SECONDS: Final = 5.0
"""A client that goes on sending would miss the answer; so long it is read, and nothing kept."""

_CLOSE: Final = {"Connection": "close"}
"""What is left of a refused body would be taken for the next request."""


async def read_body(headers: Headers, receive: Receive) -> bytes:
    """Reads a request's body.

    Args:
        headers: of the request; a declared length over the limit is refused without reading.
        receive: the ASGI channel.

    Raises:
        GuardError: 413 over `MAX_REQUEST_BYTES`, 408 if it is not complete after `BODY_SECONDS`.
        ClientDisconnect: the client left before the body was complete.
    """
    declared = headers.get("content-length", "0")
    if not declared.isascii() or not declared.isdigit() or int(declared[:20]) > MAX_REQUEST_BYTES:
        await _discard(receive)
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
                    await _discard(receive)
                    break
    except TimeoutError:
        raise GuardError(
            408,
            f"The request's body was not complete after {BODY_SECONDS:.0f} s: send it at once.",
            "timeout",
            _CLOSE,
        ) from None
    if len(body) > MAX_REQUEST_BYTES:
        raise _too_large()
    return bytes(body)


async def _discard(receive: Receive) -> None:
    """Reads on for a moment and keeps nothing: a client that is still sending sees no answer."""
    with suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while (await receive()).get("more_body", False):
                pass


def replay(body: bytes, receive: Receive) -> Receive:
    """An ASGI channel that gives `body` first, then what `receive` gives: the disconnect."""
    given = False

    async def channel() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return channel


def _too_large() -> GuardError:
    return GuardError(
        413,
        f"The request's body is larger than {MAX_REQUEST_BYTES} bytes: shorten the prompt.",
        "body_too_large",
        _CLOSE,
    )
