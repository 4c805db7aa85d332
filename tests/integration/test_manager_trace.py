"""A slot's commit belongs to the trace of the manager that wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from inference_server.service import segment_service
from lora_manager import segment_session
from lora_manager.config import ManagerConfig
from lora_manager.manager import LoraManager
from tests.support.fakes import until
from tests.support.harness import LAYOUT, InProcessServer, running_server
from tests.support.lora_files import make_lora


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def test_a_commit_is_a_child_of_what_the_manager_does(
    server: InProcessServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for module in (segment_service, segment_session):
        monkeypatch.setattr(module, "_tracer", provider.get_tracer("test"))
    (tmp_path / "ink.safetensors").write_bytes(make_lora(LAYOUT, rank=2))
    manager = asyncio.create_task(LoraManager(ManagerConfig(tmp_path, server.directory)).run())
    try:
        await until(lambda: server.state_of("ink") == "resident")
        await until(lambda: len(exporter.get_finished_spans()) == 2)
    finally:
        manager.cancel()
        await asyncio.gather(manager, return_exceptions=True)
    commit, publish = exporter.get_finished_spans()
    assert (commit.name, publish.name) == ("commit", "publish")
    assert (publish.attributes or {})["adapter"] == "ink"
    assert commit.parent is not None and commit.parent.is_remote
    assert commit.parent.span_id == publish.context.span_id
