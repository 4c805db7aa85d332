"""The exporter over HTTP: every metric exists, and each changes when it should."""

from __future__ import annotations

import asyncio
import json
import re
import urllib.error
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from inference_server.adapters.metrics import Count, Duration
from inference_server.adapters.slot_state import SlotState
from inference_server.errors import RequestError, ServerError
from inference_server.scheduler.metrics import Stage
from inference_server.service import exporter as exporter_module
from inference_server.service.exporter import start_exporter
from inference_server.service.server_metrics import COUNTS, DURATIONS, metrics_of
from tests.support.calls import failure_of, kinds, read_until
from tests.support.fakes import until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import InProcessServer, running_server
from tests.support.scrape import Exporter, Scrape, exporting
from wuliart.v1.adapter_pb2 import WatchAdaptersRequest
from wuliart.v1.image_generation_pb2 import AdapterWeight
from wuliart_contract.status import Reason

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server(capacity=1) as running:
        yield running


@pytest.fixture
async def exporter(server: InProcessServer) -> AsyncIterator[Exporter]:
    async with exporting(server) as running:
        yield running


def adapter_counts(scrape: Scrape) -> dict[str, float]:
    """Returns the counts above 0."""
    counts = {what.value: scrape(f"adapter_{what}_total") for what in Count}
    return {name: count for name, count in counts.items() if count}


def timed(scrape: Scrape) -> dict[str, float]:
    """Returns the number of observations of each adapter duration, if above 0."""
    counts = {what.value: scrape(f"adapter_{what}_count") for what in Duration}
    return {name: count for name, count in counts.items() if count}


async def test_an_idle_server(exporter: Exporter) -> None:
    scrape = await exporter.scrape()
    assert scrape.by_label("errors_total") == {}
    assert {labels for name, labels in scrape.samples if name == "wuliart_errors_total"} == {
        (reason.value,) for reason in Reason
    }
    assert scrape("images_completed_total") == scrape("images_cancelled_total") == 0
    assert scrape("queue_length") == scrape("manager_attached") == 0
    assert scrape("queue_capacity") == 1
    assert scrape.by_label("adapter_slots") == {"free": 3}
    assert adapter_counts(scrape) == timed(scrape) == {}
    ((_, info),) = [key for key in scrape.samples if key[0] == "wuliart_server_info"]
    assert info[:2] == ("cpu", "qwen-image")
    assert scrape.types["wuliart_stage_seconds"] == "histogram"
    assert scrape.types["wuliart_errors"] == "counter"


async def test_images(server: InProcessServer, exporter: Exporter) -> None:
    await kinds(server.generate(steps=3))
    await kinds(server.generate(steps=1))
    scrape = await exporter.scrape()
    assert scrape("images_completed_total") == 2
    for stage in Stage:
        assert scrape("stage_seconds_count", stage.value) == 2
        assert scrape("stage_seconds_bucket", "+Inf", stage.value) == 2
        assert scrape("stage_seconds_sum", stage.value) > 0
    parts = sum(scrape("stage_seconds_sum", s.value) for s in Stage if s is not Stage.TOTAL)
    assert parts <= scrape("stage_seconds_sum", "total")
    assert scrape("step_seconds_count") == scrape("step_images_count") == 4
    assert scrape("step_images_bucket", "1.0") == scrape("step_images_sum") == 4


async def test_the_queue_and_clients_that_leave_it(
    server: InProcessServer, exporter: Exporter
) -> None:
    server.engine.hold()
    calls = []
    for n in range(2):
        calls.append(server.generate())
        await server.accepted(n + 1)
    await until(lambda: server.engine.entered("step") == 1)
    busy = await exporter.scrape()
    assert busy("queue_length") == 2
    assert busy("memory_used_bytes", "host", "scratch") > 0
    assert (await failure_of(server.generate())).reason == "QUEUE_FULL"
    for n, call in enumerate(calls):
        call.cancel()
        await server.let_go(n)
    server.engine.free()
    await until(lambda: server.scheduler.queue_length == 0)
    idle = await exporter.scrape()
    assert idle("queue_length") == 0
    assert idle("images_cancelled_total") == 2
    assert idle("images_completed_total") == 0
    assert idle.by_label("errors_total") == {"QUEUE_FULL": 1}
    assert idle("memory_used_bytes", "host", "scratch") == 0


async def test_failures_by_reason(server: InProcessServer, exporter: Exporter) -> None:
    await failure_of(server.generate(prompt=""))
    await failure_of(server.generate(prompt="", steps=9))
    server.engine.fail("check_finite", RequestError(Reason.NON_FINITE, "broken"))
    await failure_of(server.generate())
    server.engine.fail("decode", ValueError("?"))
    await failure_of(server.generate())
    async with HandManager(server) as manager:
        await manager.report()
        await failure_of(server.generate(adapters=[AdapterWeight(name="gone")]))
    scrape = await exporter.scrape()
    assert scrape.by_label("errors_total") == {
        "INVALID_REQUEST": 2,
        "NON_FINITE": 1,
        "INTERNAL": 1,
        "ADAPTER_NOT_FOUND": 1,
    }


async def test_memory_is_reported_by_segment(server: InProcessServer, exporter: Exporter) -> None:
    async with HandManager(server) as manager:
        before = await exporter.scrape()
        await manager.load("ink")
        after = await exporter.scrape()
    segments = {key[1][::-1] for key in after.samples if key[0] == "wuliart_memory_size_bytes"}
    reported = server.holder.ready.segments()
    assert segments == {(segment.name, segment.location) for segment in reported}
    for segment in reported:
        labels = segment.location, segment.name
        assert after("memory_size_bytes", *labels) == segment.size_bytes
        assert after("memory_used_bytes", *labels) == segment.used_bytes
    assert before("memory_used_bytes", "host", "adapter slots") == 0
    assert after("memory_used_bytes", "host", "adapter slots") == server.store.resident_bytes() > 0


async def test_adapters_that_come_and_go(server: InProcessServer, exporter: Exporter) -> None:
    async with HandManager(server) as manager:
        entries = [await manager.load(name) for name in ("a", "b")]
        scrape = await exporter.scrape()
        assert scrape("manager_attached") == 1
        assert scrape.by_label("adapter_slots") == {"ready": 2, "free": 1}
        assert adapter_counts(scrape) == {"loads": 2}
        assert timed(scrape) == {"verify_seconds": 2}
        assert scrape("adapter_watchers") == 0
        watching = server.adapters().WatchAdapters(WatchAdaptersRequest())
        await watching.read()
        assert (await exporter.scrape())("adapter_watchers") == 1
        watching.cancel()
        await until(lambda: server.store.catalog.watchers == 0)

        server.engine.hold()
        call = server.generate(adapters=[AdapterWeight(name="b")])
        await read_until(call, "started")
        await manager.report(entries[0], entry_of("bad", refusal_reason="rank 99"))
        scrape = await exporter.scrape()
        assert scrape.by_label("adapter_slots") == {"ready": 1, "draining": 1, "free": 1}
        assert scrape("adapter_pins") == 1
        assert adapter_counts(scrape) == {"loads": 2, "refused": 1}
        server.engine.free()
        await kinds(call)
        scrape = await exporter.scrape()
        assert scrape("adapter_pins") == 0
        assert adapter_counts(scrape) == {"loads": 2, "refused": 1, "drained": 1}
        assert timed(scrape) == {"verify_seconds": 2, "drain_seconds": 1}

        await manager.load("c")
        await manager.load("d")
        scrape = await exporter.scrape()
        counts = adapter_counts(scrape)
        assert counts == {"loads": 4, "refused": 1, "drained": 2, "evicted": 1}

        manager.detach()
        await until(lambda: not server.store.manager_attached)
        assert (await exporter.scrape())("manager_attached") == 0


async def test_adapters_that_are_waited_for(server: InProcessServer, exporter: Exporter) -> None:
    async with HandManager(server) as manager:
        content = manager.content()
        await manager.report(entry_of("a", content))
        call = server.generate(adapters=[AdapterWeight(name="a")], steps=1)
        assert await manager.next_promotion() == "a"
        await manager.load("a")
        await kinds(call)
        scrape = await exporter.scrape()
    assert adapter_counts(scrape) == {"loads": 1, "promoted": 1}
    assert timed(scrape) == {"verify_seconds": 1, "promotion_wait_seconds": 1}
    assert scrape("adapter_promotion_wait_seconds_sum") > 0


async def test_durations_that_the_manager_measured(
    server: InProcessServer, exporter: Exporter
) -> None:
    async with HandManager(server) as manager:
        content = manager.content()
        entry, image = entry_of("a", content), manager.image(content)
        reservation = await manager.reserve("a")
        manager.write(reservation, image)
        scrape = await exporter.scrape()
        assert scrape.by_label("adapter_slots") == {"reserved": 1, "free": 2}
        times: dict[str, Any] = {"copy_time": {"nanos": 250_000_000}, "time_since_noticed": {}}
        await manager.commit(reservation, entry, image, **times)
        scrape = await exporter.scrape()
    assert timed(scrape) == {"copy_seconds": 1, "verify_seconds": 1, "detect_to_ready_seconds": 1}
    assert scrape("adapter_copy_seconds_sum") == 0.25
    assert scrape("adapter_copy_seconds_bucket", "0.25") == 1
    assert scrape("adapter_copy_seconds_bucket", "0.1") == 0


async def test_writers_that_fail(
    server: InProcessServer, exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with HandManager(server) as manager:
        content = manager.content()
        entry, image = entry_of("a", content), manager.image(content)
        reservation = await manager.reserve("a")
        await failure_of(manager.commit(reservation, entry, image, checksum=b"wrong"))
        await manager.reserve("b")
        monkeypatch.setattr(server.store.slots, "_clock", lambda: float("inf"))
        server.store.expire()
        scrape = await exporter.scrape()
        assert adapter_counts(scrape) == {"checksum_failures": 1, "lease_expiries": 1}
        assert scrape.by_label("adapter_slots") == {"quarantine": 1, "free": 2}
        assert scrape.by_label("errors_total") == {}, "those are of images"


async def test_every_state_of_a_slot_is_reported(exporter: Exporter) -> None:
    scrape = await exporter.scrape()
    reported = {labels for name, labels in scrape.samples if name == "wuliart_adapter_slots"}
    assert reported == {(state.value,) for state in SlotState}
    assert set(COUNTS) == set(Count) and set(DURATIONS) == set(Duration)


async def test_the_dashboard_and_the_docs_name_every_metric(exporter: Exporter) -> None:
    names = (await exporter.scrape()).names
    families = {re.sub(r"_(bucket|sum|count|total|info)$", "", name) for name in names}
    dashboard = json.loads((DOCS / "grafana.json").read_text())
    shown = {
        name
        for panel in dashboard["panels"]
        for target in panel.get("targets", [])
        for name in re.findall(r"\bwuliart_\w+", target["expr"])
    }
    assert shown and shown <= names
    table = (DOCS / "metrics.md").read_text()
    # Metrics that only a fleet has are tested in tests/integration/test_fleet.py.
    listed = set(re.findall(r"^\| `(wuliart_(?!fleet_)\w+)`", table, re.MULTILINE))
    assert {re.sub(r"_(total|info)$", "", name) for name in listed} == families


async def test_an_address_that_is_taken(server: InProcessServer, exporter: Exporter) -> None:
    taken = exporter.url.removeprefix("http://").removesuffix("/metrics")
    with pytest.raises(ServerError, match=f"cannot serve metrics on {taken}: .*in use"):
        start_exporter(taken, lambda: metrics_of(server.holder.ready))
    for address in ("9090", ":9090", "localhost:", "localhost:http", "localhost:70000", ""):
        with pytest.raises(ServerError, match="write HOST:PORT"):
            start_exporter(address, lambda: metrics_of(server.holder.ready))
    with pytest.raises(ServerError, match="cannot serve metrics on nowhere"):
        start_exporter("nowhere.invalid:9090", lambda: metrics_of(server.holder.ready))


async def test_a_stopped_exporter_frees_its_address(server: InProcessServer) -> None:
    async with exporting(server) as first:
        address = first.url.removeprefix("http://").removesuffix("/metrics")
    with pytest.raises(urllib.error.URLError):
        await first.scrape()
    stop = start_exporter(address, lambda: metrics_of(server.holder.ready))
    try:
        assert (await first.scrape())("queue_length") == 0
    finally:
        await asyncio.to_thread(stop)


async def test_an_event_loop_that_hangs_is_an_error_of_the_scrape(
    exporter: Exporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporter_module, "SCRAPE_SECONDS", 0.05)
    with ThreadPoolExecutor(1) as thread, pytest.raises(urllib.error.HTTPError, match="500"):
        # Waits without letting the event loop go on.
        thread.submit(exporter.get).result()
    monkeypatch.undo()
    assert (await exporter.scrape())("queue_length") == 0
