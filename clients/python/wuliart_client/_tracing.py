"""Makes the server's spans of an image part of the client's trace."""

from __future__ import annotations

from wuliart_process import tracing


def outgoing_metadata(own: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, str], ...]:
    """Returns a call's metadata: `own`, then the current span, if any, as W3C headers."""
    return (*own, *tracing.outgoing_metadata())
