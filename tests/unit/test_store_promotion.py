"""Requests for adapters that are not resident: what they wait for, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import pytest

from inference_server.adapters import binder as binder_module
from inference_server.adapters.records import AdapterWeight
from inference_server.adapters.slot_state import SlotState
from tests.support.fakes import DEADLINE, settle, until
from tests.support.store_bench import StoreBench, entry, make_bench, refused
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> StoreBench:
    return make_bench()


async def next_promotion(bench: StoreBench) -> str:
    """Returns the next name that the manager is asked to load."""
    return await asyncio.wait_for(bench.session.promotions.get(), DEADLINE)


async def test_an_absent_adapter_is_promoted_and_awaited(bench: StoreBench) -> None:
    await bench.publish("here")
    bench.report(entry("here"), entry("a"), entry("b"))
    waiting = bench.binding("b", "here", "a")
    assert {await next_promotion(bench), await next_promotion(bench)} == {"a", "b"}
    await bench.publish("a")
    assert not waiting.done()
    await bench.publish("b")
    binding = await asyncio.wait_for(waiting, DEADLINE)
    assert [pin.content.entry.name for pin in binding.pins] == ["b", "here", "a"]
    assert bench.session.promotions.empty(), "each is asked for once"
    bench.binder.release(binding)
    assert bench.pins() == 0


async def test_adapters_pinned_while_others_load_are_not_evicted(bench: StoreBench) -> None:
    await bench.publish("here")
    bench.report(entry("here"), entry("a"))
    waiting = bench.binding("here", "a")
    await next_promotion(bench)
    for name in "bcdef":
        await bench.publish(name)
    assert bench.store.slots.published("here") is not None
    await bench.publish("here", 1)
    await bench.publish("a")
    binding = await asyncio.wait_for(waiting, DEADLINE)
    assert binding.pins[0].content.entry == entry("here", 0), "the version first seen"


async def test_a_manager_that_loses_a_promotion_is_asked_again(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "PROMOTION_RETRY_SECONDS", 0.02)
    bench.report(entry("a"))
    waiting = bench.binding("a")
    assert [await next_promotion(bench) for _ in range(3)] == ["a", "a", "a"]
    await bench.publish("a")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))


async def end_by(bench: StoreBench, how: str) -> None:
    match how:
        case "refused":
            bench.report(entry("here"), entry("a", refusal="NaN in img_in"))
        case "removed":
            bench.report(entry("here"))
        case "manager gone":
            bench.store.detach(bench.session)


@pytest.mark.parametrize(
    ("how", "reason", "said"),
    [
        ("refused", Reason.ADAPTER_REFUSED, "NaN in img_in"),
        ("removed", Reason.ADAPTER_NOT_FOUND, "no adapter 'a'"),
        ("manager gone", Reason.MANAGER_UNAVAILABLE, "wuliart-lora-manager"),
    ],
)
async def test_a_promotion_that_cannot_come_ends_at_once(
    bench: StoreBench, how: str, reason: Reason, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "MANAGER_RETURN_SECONDS", 0.05)
    await bench.publish("here")
    bench.report(entry("here"), entry("a"))
    waiting = bench.binding("here", "a")
    await next_promotion(bench)
    assert bench.pins() == 1
    await end_by(bench, how)
    error = await refused(reason, lambda: waiting)
    assert said in error.message
    assert error.metadata["adapter"] == "a"
    assert bench.pins() == 0


async def test_without_a_manager_resident_adapters_are_still_bound(bench: StoreBench) -> None:
    await bench.publish("a")
    bench.report(entry("a"), entry("b"))
    bench.store.detach(bench.session)
    bench.store.writer_is_gone(bench.session.id)
    bench.binder.release(await bench.bind("a"))
    await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.bind("a", "b"))
    assert bench.pins() == 0


async def test_the_next_manager_serves_waiting_requests(bench: StoreBench) -> None:
    bench.report(entry("a"))
    bench.store.detach(bench.session)
    bench.session = bench.store.attach()
    waiting = bench.binding("a")
    assert await next_promotion(bench) == "a"
    await bench.publish("a")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))


async def test_a_request_keeps_waiting_while_the_manager_restarts(bench: StoreBench) -> None:
    bench.report(entry("a"))
    waiting = bench.binding("a")
    await next_promotion(bench)
    bench.store.detach(bench.session)
    await settle()
    assert not waiting.done()
    bench.session = bench.store.attach()
    assert await next_promotion(bench) == "a", "at once: only the dead manager was asked before"
    await bench.publish("a")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))


@pytest.mark.parametrize(
    ("names", "fits"),
    [("ab", True), (("kept", "a"), True), (("kept", "a", "b"), True), ("abc", False)],
)
async def test_more_adapters_than_slots_are_refused_before_they_are_queued(
    names: Sequence[str], fits: bool
) -> None:
    bench = make_bench(3, pinned=("kept",))
    bench.report(*map(entry, ["kept", *"abc"]))
    adapters = [AdapterWeight(name, 1.0) for name in names]
    if fits:
        bench.binder.check(adapters)
        return
    error = await refused(Reason.INVALID_REQUEST, lambda: bench.binder.check(adapters))
    assert "has 3 adapters; this server keeps 2" in error.message
    assert [v.field for v in error.violations] == ["adapters"]


async def test_a_silent_manager_is_not_awaited_for_ever(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "PROMOTION_SECONDS", 0.05)
    await bench.publish("here")
    bench.report(entry("here"), entry("a"))
    error = await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.bind("here", "a"))
    assert "'a'" in error.message
    assert bench.pins() == 0


async def test_with_every_slot_pinned_a_promotion_waits_for_a_release(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "PROMOTION_RETRY_SECONDS", 60.0)
    for name in "abcd":
        await bench.publish(name)
    bench.report(*map(entry, "abcde"))
    running = await bench.bind("a", "b", "c", "d")
    waiting = bench.binding("e")
    await settle()
    assert bench.session.promotions.empty(), "asking now could only fail"
    bench.binder.release(running)
    assert await next_promotion(bench) == "e"
    await bench.publish("e")
    binding = await asyncio.wait_for(waiting, DEADLINE)
    bench.binder.release(binding)


async def test_running_images_are_awaited_however_long_they_take(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An accepted request is not ended because the device is slow."""
    monkeypatch.setattr(binder_module, "PROMOTION_SECONDS", 0.02)
    monkeypatch.setattr(binder_module, "PROMOTION_RETRY_SECONDS", 0.005)
    for name in "abcd":
        await bench.publish(name)
    bench.report(*map(entry, "abcde"))
    running = await bench.bind("a", "b", "c", "d")
    waiting = bench.binding("a", "e")
    await asyncio.sleep(0.1)
    assert not waiting.done()
    monkeypatch.setattr(binder_module, "PROMOTION_SECONDS", 10.0)
    bench.binder.release(running)
    assert await next_promotion(bench) == "e"
    await bench.publish("e")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))


async def test_slots_that_a_dead_writer_holds_are_not_awaited_for_ever(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "PROMOTION_SECONDS", 0.05)
    await bench.publish("a")
    bench.report(entry("a"), entry("e"))
    for name in "bcdf":
        bench.write(name).lease_ends = 0.0
    bench.store.slots.expire_leases()
    assert bench.count(SlotState.QUARANTINE) == 4
    error = await refused(Reason.NO_FREE_SLOT, lambda: bench.bind("a", "e"))
    assert error.retry_after is not None
    assert "'e'" in error.message
    assert bench.pins() == 0


async def test_a_reserved_slot_is_not_free(bench: StoreBench) -> None:
    """Another adapter takes the last slot, so a promotion now would end in NO_FREE_SLOT."""
    for name in "abc":
        await bench.publish(name)
    bench.report(*map(entry, "abcde"))
    running = await bench.bind("a", "b", "c")
    coming = bench.write("d")
    waiting = bench.binding("e")
    await settle()
    assert bench.session.promotions.empty()
    bench.store.abandon(bench.session.id, coming.index, coming.generation)
    assert await next_promotion(bench) == "e"
    await bench.publish("e")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))
    bench.binder.release(running)


async def test_a_lost_lease_is_noticed_while_images_wait(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(binder_module, "PROMOTION_RETRY_SECONDS", 0.02)
    bench.report(entry("a"))
    stuck = bench.write("a")
    stuck.lease_ends = 0.0
    waiting = bench.binding("a")
    await until(lambda: stuck.state is SlotState.QUARANTINE)
    await bench.publish("a")
    bench.binder.release(await asyncio.wait_for(waiting, DEADLINE))


def nothing(bench: StoreBench) -> None:
    pass


def report_again(bench: StoreBench) -> None:
    bench.report(entry("here"), entry("a"), entry("new"))


@pytest.mark.parametrize("turns", range(6))
@pytest.mark.parametrize("news", [nothing, report_again])
async def test_a_cancelled_bind_gives_its_pins_back(
    bench: StoreBench, news: Callable[[StoreBench], None], turns: int
) -> None:
    """A cancellation ends the bind, whatever else happens at the same moment."""
    await bench.publish("here")
    bench.report(entry("here"), entry("a"))
    waiting = bench.binding("here", "a")
    await next_promotion(bench)
    assert bench.pins() == 1
    news(bench)
    for _ in range(turns):
        await asyncio.sleep(0)
    waiting.cancel()
    await settle()
    ended = waiting.done()
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended, "the cancellation was lost, and the bind waited on"
    assert bench.pins() == 0


async def test_many_wait_and_leave_in_any_order(bench: StoreBench) -> None:
    names = [f"adapter {n}" for n in range(9)]
    bench.report(*map(entry, names))

    async def manager() -> None:
        while True:
            name = await bench.session.promotions.get()
            if bench.store.slots.published(name) is None and bench.store.slots.can_reserve(name):
                await bench.publish(name)

    async def image(n: int) -> None:
        binding = await bench.bind(names[n % 9], names[(n * 4 + 1) % 9])
        for _ in range(n % 4):
            await asyncio.sleep(0)
        bench.binder.release(binding)

    def one_after_the_other(numbers: range) -> Awaitable[None]:
        async def serve() -> None:
            for n in numbers:
                await image(n)

        return serve()

    working = asyncio.create_task(manager())
    await asyncio.gather(*(one_after_the_other(range(start, 40, 2)) for start in range(2)))
    working.cancel()
    assert bench.pins() == 0
    assert bench.count(SlotState.READY) == 4
    assert bench.count(SlotState.FREE) == 1
