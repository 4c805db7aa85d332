"""Traces across processes: the W3C headers in a call's metadata, and the export of spans.

The export is configured by OpenTelemetry's own environment variables. Without OpenTelemetry's SDK,
or without these variables, every span is a no-op. Without OpenTelemetry's API, which a client may
lack, calls carry no trace.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context

try:
    from opentelemetry import propagate, trace
except ImportError:  # a client without the extra `tracing`
    propagate = trace = None  # type: ignore[assignment]


class TracingError(Exception):
    """Tracing is configured but cannot work; the message says what is missing."""


def configure(service: str) -> None:
    """Sends spans to $OTEL_EXPORTER_OTLP_ENDPOINT, or to stdout if $OTEL_TRACES_EXPORTER=console.

    Args:
        service: the service's name in the spans, unless $OTEL_SERVICE_NAME is set.

    Raises:
        TracingError: the packages for it are not installed.
    """
    console = os.environ.get("OTEL_TRACES_EXPORTER") == "console"
    if not console and not os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        return
    if trace is None or importlib.util.find_spec("opentelemetry.sdk") is None:
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
    """Returns the metadata that ties a call to the current span; empty if there is none."""
    if propagate is None:
        return ()
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return tuple(carrier.items())


def incoming(metadata: Iterable[tuple[str, str | bytes]]) -> Context:
    """Returns the trace that a call's metadata names. Needs OpenTelemetry's API."""
    return propagate.extract({key: value for key, value in metadata if isinstance(value, str)})
