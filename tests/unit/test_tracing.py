"""An image's spans: their order, their parent, and how the trace travels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import AsyncIterator
from itertools import pairwise

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from tests.support.calls import failure_of, kinds
from tests.support.harness import InProcessServer, running_server
from tests.support.scheduler_bench import Bench
from wuliart.v1.image_generation_pb2 import GenerateImageRequest
from wuliart_client._tracing import outgoing_metadata
from wuliart_contract.status import Reason
from wuliart_process import tracing

STAGES = ["queued", "text_encode", "denoise", "decode", "jpeg_encode"]
PROMPT = "a very private lighthouse"


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    """Collects the spans of the test."""
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer", provider.get_tracer)
    return exporter


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def test_the_stages_of_an_image_follow_each_other(spans: InMemorySpanExporter) -> None:
    async with Bench() as bench:
        client = bench.submit(
            1, prompt=PROMPT, steps=2, adapters=(AdapterWeight("ink", 1.0),), request_id="one"
        )
        await client.ended()
    *stages, image = spans.get_finished_spans()
    assert [span.name for span in stages] == STAGES and image.name == "image"
    assert dict(image.attributes or {}) == {
        "request_id": "one", "outcome": "completed", "steps": 2, "adapters": ("ink",),
    }  # fmt: skip
    assert all(span.parent == image.context for span in stages) and image.parent is None
    for before, after in pairwise(stages[:4]):
        assert before.end_time == after.start_time
    assert image.start_time == stages[0].start_time
    assert image.end_time == stages[-1].end_time
    for span, name in zip(stages, STAGES, strict=True):
        assert span.start_time is not None and span.end_time is not None
        took = (span.end_time - span.start_time) / 1e9
        assert took == pytest.approx(getattr(client.image.timings, name), abs=1e-6)
    assert PROMPT not in "".join(span.to_json() for span in spans.get_finished_spans())


async def test_an_image_belongs_to_its_clients_trace(
    server: InProcessServer, spans: InMemorySpanExporter
) -> None:
    assert outgoing_metadata() == ()
    with trace.get_tracer("test").start_as_current_span("client") as mine:
        call = server.images().GenerateImage(
            GenerateImageRequest(prompt=PROMPT), metadata=outgoing_metadata()
        )
        await kinds(call)
    (image,) = [span for span in spans.get_finished_spans() if span.name == "image"]
    assert image.parent is not None
    assert image.parent.span_id == mine.get_span_context().span_id
    assert image.parent.is_remote


async def test_a_failed_image_has_an_error_in_its_span(
    server: InProcessServer, spans: InMemorySpanExporter
) -> None:
    server.engine.fail("step", RequestError(Reason.NON_FINITE, "broken"))
    await failure_of(server.generate())
    (image,) = spans.get_finished_spans()
    assert (image.attributes or {})["outcome"] == "failed"
    assert image.status.description == "NON_FINITE"


async def test_an_invalid_header_is_ignored(
    server: InProcessServer, spans: InMemorySpanExporter
) -> None:
    call = server.images().GenerateImage(
        GenerateImageRequest(prompt=PROMPT), metadata=[("traceparent", "00-nonsense")]
    )
    assert (await kinds(call))[-1] == "completed"
    assert spans.get_finished_spans()[-1].parent is None


def test_nothing_is_sent_unless_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_TRACES_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    providers: list[object] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    tracing.configure("wuliart-server")
    assert providers == []


def test_spans_can_go_to_the_console(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.delenv("OTEL_SERVICE_NAME", raising=False)
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    tracing.configure("wuliart-server")
    (provider,) = providers
    provider.get_tracer("test").start_span("something").end()
    provider.shutdown()
    said = capsys.readouterr().out
    assert '"name": "something"' in said and '"service.name": "wuliart-server"' in said


def test_missing_packages_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_EXPORTER", "console")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(tracing.TracingError, match=r"wuliart-turbo\[tracing\]"):
        tracing.configure("wuliart-server")


def test_a_client_without_opentelemetry_sends_no_trace() -> None:
    code = (
        "import sys; sys.modules['opentelemetry'] = None\n"
        "import wuliart_client\n"
        "from wuliart_process import tracing\n"
        "assert tracing.outgoing_metadata() == ()\n"
        "try: tracing.configure('a client')\n"
        "except tracing.TracingError as error: assert 'wuliart-turbo[tracing]' in str(error)\n"
        "else: raise AssertionError\n"
    )
    environment = os.environ | {"OTEL_TRACES_EXPORTER": "console"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
