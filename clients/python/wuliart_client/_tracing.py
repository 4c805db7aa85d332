"""Lets an image's spans belong to the caller's trace. Knows nothing of where spans are sent."""

from __future__ import annotations

from wuliart_process import tracing


def outgoing_metadata(own: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, str], ...]:
    """For a call's `metadata`: `own`, then the present span as W3C headers if one is traced."""
    return (*own, *tracing.outgoing_metadata())
