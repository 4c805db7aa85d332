"""Metrics of images: counts and durations, each image counted once."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from inference_server.histogram import SECONDS, Histogram
from inference_server.scheduler.metrics import BATCHES, STAGE_SECONDS, ImageMetrics, Stage
from tests.support.fakes import settle, until
from tests.support.scheduler_bench import Bench
from wuliart_contract.status import Reason

BROKEN = RequestError(Reason.NON_FINITE, "broken")


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench(batch=2) as bench:
        yield bench


def ends(metrics: ImageMetrics) -> dict[str, int]:
    """Ends above 0."""
    found = {"completed": metrics.completed, "cancelled": metrics.cancelled}
    found |= {reason.value: count for reason, count in metrics.errors.items()}
    return {name: count for name, count in found.items() if count}


def shared(metrics: ImageMetrics) -> list[int]:
    """Steps of one image, of two, ..."""
    counts = [count for _, count in metrics.batches.cumulative()]
    return [after - before for before, after in zip([0, *counts], counts, strict=False)][:3]


def test_every_metric_starts_at_0() -> None:
    metrics = ImageMetrics()
    assert set(metrics.errors) == set(Reason) and set(metrics.stages) == set(Stage)
    assert ends(metrics) == {}
    assert not any(h.count for h in (*metrics.stages.values(), metrics.steps, metrics.batches))


@pytest.mark.parametrize("bounds", [SECONDS, STAGE_SECONDS, BATCHES])
def test_bounds_ascend(bounds: tuple[float, ...]) -> None:
    assert list(bounds) == sorted(set(bounds))


def test_a_histogram_has_the_bounds_it_was_given() -> None:
    histogram = Histogram((1.0, 2.0))
    for value in (1, 2, 2, 3):
        histogram.observe(value)
    assert histogram.cumulative() == [(1.0, 1), (2.0, 3)]
    assert (histogram.count, histogram.sum) == (4, 8.0)


async def test_an_image_is_timed_in_all_its_stages(bench: Bench) -> None:
    client = bench.submit(1, steps=3)
    await client.ended()
    metrics = bench.scheduler.metrics
    assert ends(metrics) == {"completed": 1}
    timings = client.image.timings
    for stage, histogram in metrics.stages.items():
        assert (histogram.count, histogram.sum) == (1, getattr(timings, stage)), stage
    assert metrics.steps.count == 3
    assert 0 < metrics.steps.sum <= timings.denoise
    assert shared(metrics) == [3, 0, 0]


async def test_a_shared_step_is_one_step_of_two_images(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(1, steps=2)
    await until(lambda: bench.engine.entered("step") == 1)
    second = bench.submit(2, steps=1)
    await settle()
    bench.engine.free()
    await first.ended()
    await second.ended()
    assert shared(bench.scheduler.metrics) == [1, 1, 0]
    assert bench.scheduler.metrics.batches.sum == 3
    assert ends(bench.scheduler.metrics) == {"completed": 2}


async def test_a_client_that_leaves_is_counted_once(bench: Bench) -> None:
    bench.engine.hold()
    drawn = [bench.submit(1), bench.submit(2)]
    await until(lambda: bench.engine.entered("step") == 1)
    ready, waiting = bench.submit(3), bench.submit(4)
    for client in (waiting, ready, drawn[0], drawn[0]):
        client.leave()
    assert ends(bench.scheduler.metrics) == {"cancelled": 3}
    bench.engine.free()
    await drawn[1].ended()
    drawn[1].leave()
    await until(lambda: bench.scheduler.queue_length == 0)
    await settle()
    assert ends(bench.scheduler.metrics) == {"cancelled": 3, "completed": 1}
    assert bench.scheduler.metrics.stages[Stage.TOTAL].count == 1


async def test_a_failure_is_counted_by_its_reason(bench: Bench) -> None:
    for error, expected in (
        (BROKEN, {"NON_FINITE": 1}),
        (ValueError("?"), {"NON_FINITE": 1, "INTERNAL": 1}),
    ):
        bench.engine.fail("check_finite", error)
        client = bench.submit(1)
        await client.ended()
        client.leave()
        assert client.error is error
        assert ends(bench.scheduler.metrics) == expected
    # The steps were done, and broke the images; the device thread's word of it may come last.
    await until(lambda: bench.scheduler.metrics.steps.count == 2)


async def test_a_step_that_fails_is_not_timed(bench: Bench) -> None:
    bench.engine.fail("step", BROKEN)
    await bench.submit(1).ended()
    assert bench.scheduler.metrics.steps.count == 0


async def test_adapters_that_cannot_be_bound_are_a_failure(bench: Bench) -> None:
    bench.binder.fail(RequestError(Reason.NO_FREE_SLOT, "full"))
    await bench.submit(1, adapters=(AdapterWeight("a", 1.0),)).ended()
    bench.binder.fail(ValueError("?"))
    await bench.submit(1, adapters=(AdapterWeight("a", 1.0),)).ended()
    assert ends(bench.scheduler.metrics) == {"NO_FREE_SLOT": 1, "INTERNAL": 1}


async def test_a_drain_fails_what_is_left_and_cancels_nothing() -> None:
    async with Bench() as bench:
        bench.engine.hold()
        clients = [bench.submit(seed) for seed in range(3)]
        await until(lambda: bench.engine.entered("step") == 1)
        bench.engine.let()
        await until(lambda: bench.engine.entered("step") == 2)
        draining = bench.drain(0)
        for client in clients:
            await client.ended()
            client.leave()
        bench.engine.free()
        await draining
        assert ends(bench.scheduler.metrics) == {"DRAINING": 3}
