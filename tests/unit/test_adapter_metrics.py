"""Metrics of adapters: each event is counted and timed once."""

# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

import asyncio

import pytest

from inference_server.adapters.metrics import AdapterMetrics, Count, Duration
from inference_server.histogram import SECONDS, Histogram
from tests.support.fakes import DEADLINE
from tests.support.slot_bench import LEASE, SlotBench
from tests.support.store_bench import StoreBench, entry, make_bench, refused
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> StoreBench:
    return make_bench()


def counted(metrics: AdapterMetrics) -> dict[str, int]:
    """Returns the counters above 0."""
    return {what.value: count for what, count in metrics.counts.items() if count}


def test_all_metrics_start_at_0() -> None:
    metrics = AdapterMetrics()
    assert set(metrics.counts) == set(Count)
    assert set(metrics.durations) == set(Duration)
    assert not any(metrics.counts.values())


async def test_durations_that_the_manager_reports_are_kept(bench: StoreBench) -> None:
    durations = bench.store.metrics.durations
    await bench.commit(bench.write("a"))
    assert durations[Duration.COPY].count == durations[Duration.DETECT_TO_READY].count == 0
    await bench.commit(bench.write("b"), copy_seconds=0.25, seconds_since_noticed=2.0)
    assert durations[Duration.COPY].sum == 0.25
    assert durations[Duration.DETECT_TO_READY].count == 1
    assert durations[Duration.DETECT_TO_READY].sum > 2.0, "verifying is part of it"


def test_buckets_hold_their_own_bound_and_everything_shorter() -> None:
    histogram = Histogram()
    for seconds in (0.0, SECONDS[0], SECONDS[0] * 1.01, SECONDS[-1], SECONDS[-1] + 1):
        histogram.observe(seconds)
    buckets = histogram.cumulative()
    assert [bound for bound, _ in buckets] == list(SECONDS) == sorted(SECONDS)
    assert [count for _, count in buckets] == [2, *[3] * (len(SECONDS) - 2), 4]
    assert histogram.count == 5
    assert histogram.sum == pytest.approx(SECONDS[0] * 2.01 + SECONDS[-1] * 2 + 1)


def test_a_drain_lasts_until_the_last_image_is_done() -> None:
    bench = SlotBench()
    bench.publish("a")
    first, second = bench.pin("a"), bench.pin("a")
    bench.now = 100.0
    bench.table.unpublish("a")
    bench.now = 102.5
    bench.table.release(first)
    drains = bench.metrics.durations[Duration.DRAIN]
    assert drains.count == 0
    bench.now = 103.0
    bench.table.release(second)
    assert (drains.count, drains.sum) == (1, 3.0)
    assert counted(bench.metrics) == {"drained": 1}


def test_another_name_evicts_and_an_update_does_not() -> None:
    bench = SlotBench()
    for name in "abcd":
        bench.publish(name)
    bench.publish("a")
    assert counted(bench.metrics) == {"drained": 1}
    bench.publish("e")
    assert counted(bench.metrics) == {"drained": 2, "evicted": 1}


def test_a_lease_runs_out_once() -> None:
    bench = SlotBench()
    bench.reserve("a")
    bench.now = LEASE
    bench.table.expire_leases()
    bench.table.expire_leases()
    bench.table.writer_is_gone("session")
    assert counted(bench.metrics) == {"lease_expiries": 1}


async def test_loads_and_checksums(bench: StoreBench) -> None:
    slot = await bench.publish("a")
    await bench.commit(slot)  # a retry
    await refused(Reason.CHECKSUM_MISMATCH, lambda: bench.commit(bench.write("b"), checksum=b"x"))
    await refused(Reason.INVALID_REQUEST, lambda: bench.commit(bench.write("c"), packed_rank=0))
    assert counted(bench.store.metrics) == {"loads": 1, "checksum_failures": 1}
    verified = bench.store.metrics.durations[Duration.VERIFY]
    assert verified.count == 2
    assert 0 < verified.sum < 5


async def test_a_refused_file_counts_whenever_it_is_another(bench: StoreBench) -> None:
    for refusal in ("rank 99", "rank 99", "NaN", "", "NaN"):
        bench.report(entry("a", refusal=refusal), entry("b"))
    assert counted(bench.store.metrics) == {"refused": 3}


async def test_a_promotion_is_timed_for_each_waiting_request(bench: StoreBench) -> None:
    await bench.publish("here")
    bench.report(entry("here"), entry("a"), entry("b"))
    waiting = bench.binding("here", "a")
    gone = bench.binding("b")
    assert {await bench.session.promotions.get(), await bench.session.promotions.get()} == {
        "a",
        "b",
    }
    await asyncio.sleep(0.02)
    gone.cancel()
    await bench.publish("a")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))
    await bench.publish("b")
    bench.binder.release(await bench.bind("b"))
    waited = bench.store.metrics.durations[Duration.PROMOTION_WAIT]
    assert bench.store.metrics.counts[Count.PROMOTED] == waited.count == 1
    assert 0.02 <= waited.sum < 5
