"""Scrapes an exporter and parses the response as Prometheus does."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from prometheus_client.parser import text_string_to_metric_families

from inference_server.service.exporter import start_exporter
from inference_server.service.server_metrics import metrics_of
from tests.support.fakes import DEADLINE, planned_memory
from tests.support.harness import InProcessServer


@dataclass(frozen=True)
class Scrape:
    """One response."""

    samples: dict[tuple[str, tuple[str, ...]], float]
    """Values by metric name and label values, which are ordered by label name."""
    types: dict[str, str]

    def __call__(self, name: str, *labels: str) -> float:
        return self.samples[f"wuliart_{name}", labels]

    def by_label(self, name: str) -> dict[str, float]:
        """Values above 0 of a metric with one label."""
        full = f"wuliart_{name}"
        return {k[1][0]: v for k, v in self.samples.items() if k[0] == full and v}

    @property
    def names(self) -> set[str]:
        """Names of all samples."""
        return {name for name, _ in self.samples}


def parse(text: str) -> Scrape:
    samples, types = {}, {}
    for family in text_string_to_metric_families(text):
        types[family.name] = family.type
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            assert (sample.name, labels) not in samples
            samples[sample.name, labels] = sample.value
    return Scrape(samples, types)


@dataclass(frozen=True)
class Exporter:
    """A running exporter."""

    url: str

    def get(self) -> str:
        """Returns the text. Blocks, so it must not run on the event loop, which serves it."""
        with urllib.request.urlopen(self.url, timeout=DEADLINE) as response:
            return str(response.read().decode())

    async def scrape(self) -> Scrape:
        return parse(await asyncio.to_thread(self.get))


@asynccontextmanager
async def exporting(server: InProcessServer) -> AsyncIterator[Exporter]:
    """Runs an exporter of the server, whose engine gets the memory plan of a model."""
    server.engine.model = SimpleNamespace(  # type: ignore[attr-defined]
        name="qwen-image", device=torch.device("cpu"), **planned_memory()
    )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    stop = start_exporter(address, lambda: metrics_of(server.holder.ready))
    try:
        yield Exporter(f"http://{address}/metrics")
    finally:
        await asyncio.to_thread(stop)
