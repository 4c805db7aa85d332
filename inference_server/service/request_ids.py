"""The id that a request goes by: from its metadata into its log records and back to its client.

Owns that, and the trace that the call belongs to. Knows nothing of what is asked for.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import AsyncIterator, Iterable
from typing import Any

from grpc import aio
from opentelemetry.context import attach

from inference_server.logs import REQUEST_ID
from wuliart_process import tracing

KEY = "x-request-id"
"""Metadata that the id comes in and goes back in."""


def take_up(metadata: Any) -> None:
    """From here on the running task is known by the id and the trace of its call.

    Args:
        metadata: of the call, as gRPC gives it.
    """
    metadata = metadata or ()
    # Not undone at the end: each call has a task of its own.
    attach(tracing.incoming(metadata))
    REQUEST_ID.set(request_id(metadata))


def handed_on() -> tuple[tuple[str, str], ...]:
    """Metadata with which another process can take up this task's call."""
    return ((KEY, REQUEST_ID.get()), *tracing.outgoing_metadata())


async def told(
    responses: AsyncIterator[Any], context: aio.ServicerContext[Any, Any]
) -> AsyncIterator[Any]:
    """The responses, the first of them behind the call's id."""
    identified = False
    async for response in responses:
        if not identified:
            # Not sooner: a call that has sent anything is not tried again by itself.
            await context.send_initial_metadata(((KEY, REQUEST_ID.get()),))
            identified = True
        yield response


def request_id(metadata: Iterable[tuple[str, str]]) -> str:
    """The client's own id if it sent one that can go into a log as it is; else a random one."""
    for key, value in metadata:
        if key == KEY and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
            return value
    return secrets.token_hex(8)
