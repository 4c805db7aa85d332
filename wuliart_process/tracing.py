"""Traces across the programs: how a trace travels in gRPC metadata, and where spans are sent.

Owns the W3C header in a call's metadata and the set-up from OpenTelemetry's own variables. Knows
nothing of which spans there are. Without OpenTelemetry's SDK, or without those variables, every
span is a no-op.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable

from opentelemetry import propagate, trace
from opentelemetry.context import Context


class TracingError(Exception):
    """Traces were asked for and cannot be sent; the message says what is missing."""


def configure(service: str) -> None:
    """Sends spans where $OTEL_EXPORTER_OTLP_ENDPOINT or $OTEL_TRACES_EXPORTER=console says.

    Raises:
        TracingError: the packages for it are not installed.
    """
    console = os.environ.get("OTEL_TRACES_EXPORTER") == "console"
    if not console and not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    if importlib.util.find_spec("opentelemetry.sdk") is None:
        raise TracingError('traces need more packages: pip install "wuliart-turbo[tracing]"')
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import (
        BatchSpanProcessor,
        ConsoleSpanExporter,
        SpanExporter,
    )

    exporter: SpanExporter = ConsoleSpanExporter(out=sys.stdout)
    if not console:
        try:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        except ImportError:
            raise TracingError(
                'traces need more packages: pip install "wuliart-turbo[tracing]"'
            ) from None
        exporter = OTLPSpanExporter()
    name = os.environ.get("OTEL_SERVICE_NAME", service)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def outgoing_metadata() -> tuple[tuple[str, str], ...]:
    """What a call has to carry for its spans to belong to the present trace; empty without one."""
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def incoming(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """The trace that a call belongs to."""
    return propagate.extract({key: value for key, value in metadata if isinstance(value, str)})
