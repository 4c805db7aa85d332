"""An adapter that does not load keeps no other request from the device."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from inference_server.adapters.records import AdapterWeight
from inference_server.errors import RequestError
from inference_server.scheduler.events import Queued
from inference_server.scheduler.waiting_requests import MAX_OVERTAKES
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


async def test_requests_with_resident_adapters_overtake(bench: Bench) -> None:
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


async def test_an_idle_device_encodes_the_prompt_while_an_adapter_is_loaded(bench: Bench) -> None:
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


async def test_a_request_whose_adapters_were_loaded_goes_before_later_ones(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    cold, ready, later = bench.submit(1, adapters=COLD), bench.submit(2), bench.submit(3)
    bench.binder.free()
    await settle()
    bench.engine.free()
    for client in (first, cold, ready, later):
        await client.ended()
    # The request that stood by when the adapter was loaded goes first, and no other.
    assert [call.subject for call in bench.engine.calls if call.stage == "decode"] == [0, 2, 1, 3]


async def test_a_request_is_overtaken_a_limited_number_of_times(bench: Bench) -> None:
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


async def test_one_request_loads_at_a_time_and_leaving_lets_the_next_load(bench: Bench) -> None:
    first, second = bench.submit(1, adapters=COLD), bench.submit(2, adapters=COLDER)
    await settle()
    assert bench.binder.requested == [COLD]
    first.leave()
    await until(lambda: bench.binder.requested == [COLD, COLDER])
    bench.binder.free()
    await second.ended()
    assert second.error is None
    assert bench.binder.balanced


async def test_a_failed_load_lets_the_next_request_load(bench: Bench) -> None:
    error = RequestError(Reason.MANAGER_UNAVAILABLE, "no manager")
    bench.binder.free()
    bench.binder.fail(error)
    first, second = bench.submit(1, adapters=COLD), bench.submit(2, adapters=COLDER)
    await first.ended()
    await second.ended()
    assert first.error is error
    assert second.error is None


async def test_leaving_with_loaded_adapters_releases_them(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(0)
    await until(lambda: bench.engine.entered("step") == 1)
    cold, ready = bench.submit(1, adapters=COLD), bench.submit(2)
    bench.binder.free()
    await until(lambda: len(bench.binder.bound) == 3)
    await settle()
    cold.leave()
    bench.engine.free()
    await first.ended()
    await ready.ended()
    assert bench.engine.entered("decode", 1) == 0
    assert bench.binder.balanced
