"""An adapter that will not load costs nobody else the device."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from inference_server.scheduler.events import Queued
from inference_server.scheduler.scheduler import MAX_OVERTAKES
from tests.support.fakes import settle, until
from tests.support.scheduler_bench import Bench
from wuliart_contract.status import Reason

COLD = (AdapterWeight("cold", 1.0),)
COLDER = (AdapterWeight("colder", 1.0),)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench(capacity=64) as bench:
        bench.binder.hold("cold", "colder")
        yield bench


async def test_jobs_whose_adapters_are_there_go_first(bench: Bench) -> None:
    cold = bench.submit(1, adapters=COLD)
    plain = [bench.submit(seed) for seed in (2, 3)]
    for client in plain:
        await client.ended()
        assert client.error is None
    assert {type(event) for event in cold.events} == {Queued}
    bench.binder.free()
    await cold.ended()
    assert cold.image.seed == 1
    assert bench.binder.balanced


async def test_while_a_adapter_is_loaded_an_idle_device_encodes_the_prompt(bench: Bench) -> None:
    bench.engine.cold.add("two words")
    cold = bench.submit(1, adapters=COLD, prompt="two words")
    await until(lambda: bench.engine.entered("encode", "two words") == 1)
    await settle()
    assert not cold.events
    bench.binder.free()
    await cold.ended()
    assert cold.image.seed == 1


async def test_a_prompt_that_cannot_be_encoded_ahead_fails_its_own_image_alone(
    bench: Bench,
) -> None:
    bench.engine.cold.add("two words")
    bench.engine.fail("encode", RuntimeError("ahead"))
    cold = bench.submit(1, adapters=COLD, prompt="two words")
    await until(lambda: bench.engine.entered("encode", "two words") == 1)
    await bench.submit(2).ended()
    bench.engine.fail("encode", RuntimeError("again"))
    bench.binder.free()
    await cold.ended()
    assert "again" in str(cold.error)


async def test_what_was_loaded_goes_before_those_that_came_later(bench: Bench) -> None:
    bench.engine.hold()
    drawing = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    cold, ready, later = bench.submit(1, adapters=COLD), bench.submit(2), bench.submit(3)
    bench.binder.free()
    await settle()
    bench.engine.free()
    for client in (drawing, cold, ready, later):
        await client.ended()
    # One was ready already when the adapter came; nobody else went first.
    assert [call.subject for call in bench.engine.calls if call.stage == "decode"] == [0, 2, 1, 3]


async def test_a_job_is_overtaken_only_so_often(bench: Bench) -> None:
    cold = bench.submit(0, adapters=COLD)
    plain = [bench.submit(seed) for seed in range(1, MAX_OVERTAKES + 4)]
    await plain[MAX_OVERTAKES - 1].ended()
    await settle()
    assert all(not client.events[-1:] or client.error is None for client in plain)
    assert bench.engine.entered("decode") == MAX_OVERTAKES
    bench.binder.free()
    await cold.ended()
    for client in plain:
        await client.ended()
    assert bench.binder.balanced


async def test_one_loads_at_a_time_and_leaving_lets_the_next_one_load(bench: Bench) -> None:
    first, second = bench.submit(1, adapters=COLD), bench.submit(2, adapters=COLDER)
    await settle()
    assert bench.binder.requested == [COLD]
    first.leave()
    await until(lambda: bench.binder.requested == [COLD, COLDER])
    bench.binder.free()
    await second.ended()
    assert second.error is None
    assert bench.binder.balanced


async def test_one_that_fails_to_load_lets_the_next_one_load(bench: Bench) -> None:
    error = RequestError(Reason.MANAGER_UNAVAILABLE, "no manager")
    bench.binder.free()
    bench.binder.fail(error)
    first, second = bench.submit(1, adapters=COLD), bench.submit(2, adapters=COLDER)
    await first.ended()
    await second.ended()
    assert first.error is error
    assert second.error is None


async def test_leaving_with_everything_loaded_gives_it_back(bench: Bench) -> None:
    bench.engine.hold()
    drawing = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    cold, ready = bench.submit(1, adapters=COLD), bench.submit(2)
    bench.binder.free()
    await until(lambda: len(bench.binder.bound) == 3)
    await settle()
    cold.leave()
    bench.engine.free()
    await drawing.ended()
    await ready.ended()
    assert bench.engine.entered("decode", 1) == 0
    assert bench.binder.balanced
