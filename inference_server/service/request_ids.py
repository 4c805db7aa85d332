"""Request ids: read from a call's metadata, written into log records, sent back to the client.

A call's metadata may also carry a W3C trace context, which is taken over at the same moment.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable
from typing import Any

from grpc import aio
from opentelemetry.context import attach

from inference_server.logs import REQUEST_ID
from wuliart_process import tracing

KEY = "x-request-id"
"""Metadata key of the id, in both directions."""


def begin_request(metadata: Any) -> None:
    """Sets the request id and the trace context of the running task.

    Args:
        metadata: of the call, as gRPC gives it.
    """
    metadata = metadata or ()
    # Never detached: each call runs in a task of its own.
    attach(tracing.incoming(metadata))
    REQUEST_ID.set(request_id(metadata))


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """Metadata from which another process can call `begin_request` for the same call."""
    return ((KEY, REQUEST_ID.get()), *tracing.outgoing_metadata())


async def send_request_id(context: aio.ServicerContext[Any, Any]) -> None:
    """Sends the running task's request id to the client, as initial metadata."""
    await context.send_initial_metadata(((KEY, REQUEST_ID.get()),))


def request_id(metadata: Iterable[tuple[str, str]]) -> str:
    """Returns the client's own id if it is safe to log, else a random one of 16 hex digits."""
    for key, value in metadata:
        if key == KEY and re.fullmatch(r"[A-Za-z0-9._-]{1,64}", value):
            return value
    return secrets.token_hex(8)
