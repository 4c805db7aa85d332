"""Images generated without a bad adapter: which are skipped, and which failures stay failures."""

from __future__ import annotations

import asyncio

import pytest

from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterWeight, Skipped
from tests.support.fakes import DEADLINE
from tests.support.store_bench import StoreBench, entry, make_bench, refused
from wuliart_contract.status import Reason

NO_SUCH = Skipped("stone", Reason.ADAPTER_NOT_FOUND, "there is no adapter 'stone'")
REFUSED = Skipped("bad", Reason.ADAPTER_REFUSED, "adapter 'bad' cannot be used: rank 99")
WANTED = [AdapterWeight("stone", 1.0), AdapterWeight("good", 0.5), AdapterWeight("bad", 0.0)]


@pytest.fixture
async def bench() -> StoreBench:
    bench = make_bench(skip_bad=True)
    bench.report(entry("bad", refusal="rank 99"), entry("good"))
    return bench


def names(binding: Binding) -> list[str]:
    return [pin.content.entry.name for pin in binding.pins]


async def test_bad_adapters_are_skipped_and_listed_in_the_requests_order(bench: StoreBench) -> None:
    await bench.publish("good")
    bench.binder.check(WANTED)
    binding = bench.binder.try_bind(WANTED)
    assert binding is not None
    assert binding == await bench.binder.bind(WANTED)
    assert binding.skipped == (NO_SUCH, REFUSED)
    assert (binding.adapters, names(binding)) == ((WANTED[1],), ["good"])
    assert [gated.gate for gated in binding.gated] == [0.5]


async def test_an_image_may_be_generated_without_any_of_its_adapters(bench: StoreBench) -> None:
    binding = bench.binder.try_bind([WANTED[0], WANTED[2]])
    assert binding is not None
    assert (binding.adapters, binding.pins) == ((), ())
    assert len(binding.skipped) == 2


async def test_the_good_one_is_loaded_first(bench: StoreBench) -> None:
    assert bench.binder.try_bind(WANTED) is None
    waiting = bench.binding("bad", "good")
    assert await bench.session.promotions.get() == "good"
    await bench.publish("good")
    binding = await asyncio.wait_for(waiting, DEADLINE)
    assert (names(binding), binding.skipped) == (["good"], (REFUSED,))
    assert bench.session.promotions.empty()


async def test_an_adapter_that_turns_out_bad_while_awaited_is_skipped(bench: StoreBench) -> None:
    waiting = bench.binding("good")
    await bench.session.promotions.get()
    bench.report(entry("good", refusal="NaN"))
    binding = await asyncio.wait_for(waiting, DEADLINE)
    assert binding.pins == ()
    assert [skipped.name for skipped in binding.skipped] == ["good"]


async def test_an_adapter_that_turns_out_good_while_another_is_awaited_is_used(
    bench: StoreBench,
) -> None:
    waiting = bench.binding("bad", "good")
    await bench.session.promotions.get()
    bench.report(entry("bad", 1), entry("good"))
    assert await bench.session.promotions.get() == "bad"
    for name in ("good", "bad"):
        await bench.publish(name)
    binding = await asyncio.wait_for(waiting, DEADLINE)
    assert (names(binding), binding.skipped) == (["bad", "good"], ())


async def test_without_a_manager_a_good_one_still_fails_and_a_bad_one_does_not(
    bench: StoreBench,
) -> None:
    bench.store.detach(bench.session)
    await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.binder.check(WANTED))
    await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.bind("bad", "good"))
    assert (await bench.bind("bad", "stone")).skipped == (REFUSED, NO_SUCH)


async def test_before_the_first_report_nothing_is_known_to_be_missing() -> None:
    """A server that was just started must not generate without an adapter it will have in a
    second.
    """
    bench = make_bench(skip_bad=True)
    await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.binder.check(WANTED[:1]))
    await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.bind("stone"))
    bench.report()
    assert len((await bench.bind("stone")).skipped) == 1


@pytest.mark.parametrize("skip_bad", [False, True])
async def test_a_file_that_is_being_read_is_not_missing(skip_bad: bool) -> None:
    bench = make_bench(skip_bad=skip_bad)
    bench.store.report(bench.session.id, [], pending=["new"])
    error = await refused(Reason.MANAGER_UNAVAILABLE, lambda: bench.bind("new"))
    assert error.message == "the file of adapter 'new' is still being read; try again in a moment"
    bench.report(entry("new"))
    waiting = bench.binding("new")
    await bench.publish("new")
    assert names(await asyncio.wait_for(waiting, DEADLINE)) == ["new"]


async def test_a_server_that_does_not_skip_fails() -> None:
    bench = make_bench()
    bench.report(entry("bad", refusal="rank 99"))
    assert bench.binder.try_bind([AdapterWeight("bad", 1.0)]) is None
    await refused(Reason.ADAPTER_REFUSED, lambda: bench.binder.check([AdapterWeight("bad", 1.0)]))
