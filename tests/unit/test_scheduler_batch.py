"""A batch: images share steps, join and leave between them, and fail alone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from inference_server.errors import RequestError
from inference_server.scheduler import device_loop
from inference_server.scheduler.events import Started, StepDone
from tests.support.fakes import settle, until
from tests.support.scheduler_bench import Bench, Client
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    async with Bench(capacity=4, batch=2) as bench:
        yield bench


def steps(client: Client) -> int:
    return sum(isinstance(event, StepDone) for event in client.events)


async def test_a_new_image_joins_at_the_next_step_and_a_finished_one_leaves(bench: Bench) -> None:
    bench.engine.hold()
    first = bench.submit(1, steps=3)
    await until(lambda: bench.engine.entered("step", 1) == 1)
    second = bench.submit(2, steps=2)
    third = bench.submit(3, steps=1)
    await settle()
    assert bench.engine.entered("encode") == 1
    assert third.positions == [2]
    bench.engine.let()
    await until(lambda: bench.engine.entered("step", 1) == 2)
    # The second image shares the second step of the first; the third still waits.
    bench.engine.let(2)
    await until(lambda: bench.engine.entered("step", 1) == 3)
    assert (steps(first), steps(second)) == (2, 1)
    assert isinstance(second.events[0], Started)
    bench.engine.let(2)
    await first.ended()
    await second.ended()
    assert first.image.seed == 1 and second.image.seed == 2
    await until(lambda: bench.engine.entered("step", 3) == 1)
    bench.engine.free()
    await third.ended()
    order = [call.subject for call in bench.engine.calls if call.stage == "step"]
    assert order == [1, 1, 2, 1, 2, 3]
    assert len(bench.binder.released) == 3


async def test_a_cancelled_image_leaves_and_the_other_continues(bench: Bench) -> None:
    bench.engine.hold()
    stays, leaves = bench.submit(1), bench.submit(2)
    await until(lambda: bench.engine.entered("step") == 1)
    leaves.leave()
    bench.engine.free()
    await stays.ended()
    assert stays.image.seed == 1
    assert bench.engine.entered("step", 2) <= 1
    assert bench.engine.entered("decode", 2) == 0
    assert len(bench.binder.released) == 2


async def test_an_image_that_is_not_finite_fails_alone(bench: Bench) -> None:
    bench.engine.hold()
    clients = [bench.submit(1), bench.submit(2)]
    await until(lambda: bench.engine.entered("step") == 1)
    bench.engine.fail("check_finite", RequestError(Reason.NON_FINITE, "step 1 of 4"))
    bench.engine.free()
    for client in clients:
        await client.ended()
    broken, whole = clients
    assert isinstance(broken.error, RequestError) and broken.error.reason is Reason.NON_FINITE
    assert whole.image.seed == 2


async def test_a_device_error_fails_the_whole_batch_and_no_later_image(bench: Bench) -> None:
    bench.engine.hold()
    clients = [bench.submit(1), bench.submit(2), bench.submit(3)]
    await until(lambda: bench.engine.entered("step", 1) == 1)
    bench.engine.let(2)
    await until(lambda: bench.engine.entered("step", 2) == 1)
    bench.engine.fail("step", RuntimeError("CUDA error"))
    bench.engine.free()
    for client in clients:
        await client.ended()
    assert [str(client.error) for client in clients[:2]] == ["CUDA error"] * 2
    assert clients[2].image.seed == 3
    assert len(bench.binder.released) == 3


@pytest.mark.parametrize("stage", ["encode", "begin", "decode"])
async def test_an_error_in_one_images_own_stage_fails_it_alone(bench: Bench, stage: str) -> None:
    bench.engine.fail(stage, RuntimeError("broken"))
    clients = [bench.submit(1), bench.submit(2)]
    for client in clients:
        await client.ended()
    assert [str(client.error) for client in clients] == ["broken", "None"]


async def test_the_engine_rests_after_a_time_without_images(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_loop, "REST_SECONDS", 0.05)
    await bench.submit(1).ended()
    await until(lambda: bench.engine.entered("rest") == 1)
    monkeypatch.setattr(device_loop, "REST_SECONDS", 60.0)
    await bench.submit(2).ended()
    await bench.submit(3).ended()
    assert bench.engine.entered("rest") == 1
    assert bench.engine.calls[-1].stage == "decode"


async def test_the_next_prompt_is_encoded_during_the_current_images_steps() -> None:
    async with Bench(batch=1) as bench:
        bench.engine.cold = {"a dog"}
        bench.engine.hold()
        first = bench.submit(1)
        await until(lambda: bench.engine.entered("step", 1) == 1)
        second = bench.submit(2, prompt="a dog")
        bench.engine.free()
        await first.ended()
        await second.ended()
        assert bench.engine.entered("encode beside", "a dog") == 1
        stages = [call.stage for call in bench.engine.calls]
        assert stages.index("encode beside") < stages.index("decode")


async def test_a_new_prompt_is_encoded_before_its_image_joins_a_running_batch(
    bench: Bench,
) -> None:
    bench.engine.cold = {"a dog"}
    bench.engine.hold()
    first = bench.submit(1)
    await until(lambda: bench.engine.entered("step", 1) == 1)
    second = bench.submit(2, prompt="a dog")
    bench.engine.let(2)
    await until(lambda: bench.engine.entered("step", 1) == 3)
    bench.engine.free()
    await first.ended()
    await second.ended()
    of_second = [
        (call.stage, call.subject) for call in bench.engine.calls if call.subject in (2, "a dog")
    ]
    assert of_second[:3] == [("encode beside", "a dog"), ("encode", "a dog"), ("begin", 2)]
    order = [call.subject for call in bench.engine.calls if call.stage == "step"]
    assert order[:4] == [1, 1, 1, 2]


async def test_a_new_prompt_in_an_empty_batch_is_encoded_at_once(bench: Bench) -> None:
    bench.engine.cold = {"a dog"}
    await bench.submit(2, prompt="a dog").ended()
    assert bench.engine.entered("encode beside") == 0
