"""Every transition of the slot table, and every error."""

# A slot's state changes between asserts; mypy narrows it by the first one.
# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

import pytest

from inference_server.adapters.metrics import AdapterMetrics
from inference_server.adapters.slot_state import SlotState
from inference_server.adapters.slots import SlotTable
from tests.support.slot_bench import LEASE, LIMIT, ME, SlotBench, content, refused
from wuliart_contract.status import Reason


@pytest.fixture
def bench() -> SlotBench:
    return SlotBench()


def test_a_spare_slot_is_required() -> None:
    with pytest.raises(ValueError, match="4 resident adapters need more than 4 slots"):
        SlotTable(
            4,
            resident_limit=4,
            lease_seconds=LEASE,
            clock=lambda: 0.0,
            zero=lambda _: None,
            metrics=AdapterMetrics(),
        )


def test_a_slot_goes_from_free_to_ready_and_back(bench: SlotBench) -> None:
    slot = bench.reserve("a")
    assert slot.state is SlotState.RESERVED
    assert slot.lease_ends == LEASE
    assert bench.table.published("a") is None
    assert bench.table.pin("a") is None
    assert bench.table.begin_verify(ME, slot.index, slot.generation) is slot
    assert slot.state is SlotState.VERIFYING
    assert bench.table.pin("a") is None
    bench.table.publish(slot, made := content("a", slot.generation))
    assert slot.state is SlotState.READY
    assert bench.table.published("a") is made
    bench.table.unpublish("a")
    assert bench.table.published("a") is None
    assert bench.states() == [SlotState.FREE] * 5
    assert bench.zeroed == []


def test_generations_are_never_reused(bench: SlotBench) -> None:
    seen = []
    for turn in range(20):
        slot = bench.reserve(f"adapter {turn % 3}")
        seen.append(slot.generation)
        if turn % 4 == 0:
            bench.table.abandon(ME, slot.index, slot.generation)
        else:
            bench.commit(slot)
    assert seen == sorted(set(seen))
    assert seen[0] > 0


def test_a_repeated_reserve_gives_the_same_reservation(bench: SlotBench) -> None:
    first = bench.table.reserve(ME, "r1", "a", evict=True)
    generation = first.generation
    assert bench.table.reserve(ME, "r1", "a", evict=True) is first
    assert first.generation == generation
    assert bench.table.reserve(ME, "r2", "b", evict=True) is not first


def test_a_repeated_reserve_after_the_lease_gives_a_new_reservation(bench: SlotBench) -> None:
    first = bench.table.reserve(ME, "r1", "a", evict=True)
    bench.now = LEASE
    bench.table.expire_leases()
    assert bench.table.reserve(ME, "r1", "a", evict=True) is not first


def test_a_repeated_commit_is_harmless(bench: SlotBench) -> None:
    slot = bench.publish("a")
    assert bench.table.begin_verify(ME, slot.index, slot.generation) is None
    assert slot.state is SlotState.READY


@pytest.mark.parametrize(
    ("session", "index", "generation"),
    [("other", 0, 1), (ME, 1, 1), (ME, 0, 2), (ME, 0, 0), (ME, 5, 1), (ME, 1 << 31, 1), ("", 1, 0)],
)
def test_a_commit_without_its_reservation_is_refused(
    bench: SlotBench, session: str, index: int, generation: int
) -> None:
    slot = bench.reserve("a")
    assert (slot.index, slot.generation) == (0, 1)
    refused(Reason.RESERVATION_LOST, lambda: bench.table.begin_verify(session, index, generation))
    assert slot.state is SlotState.RESERVED


def test_a_commit_after_the_lease_is_refused(bench: SlotBench) -> None:
    slot = bench.reserve("a")
    bench.now = LEASE - 0.001
    assert bench.table.expire_leases() == []
    bench.now = LEASE
    assert bench.table.expire_leases() == [slot]
    refused(
        Reason.RESERVATION_LOST, lambda: bench.table.begin_verify(ME, slot.index, slot.generation)
    )
    assert slot.state is SlotState.QUARANTINE


def test_a_lease_does_not_run_out_while_its_slot_is_verified(bench: SlotBench) -> None:
    slot = bench.reserve("a")
    bench.table.begin_verify(ME, slot.index, slot.generation)
    bench.now = 2 * LEASE
    assert bench.table.expire_leases() == []
    bench.table.close_session(ME)
    bench.table.writer_is_gone(ME)
    bench.table.publish(slot, content("a", slot.generation))
    assert bench.table.published("a") is not None


def test_a_rejected_slot_is_zeroed_and_free(bench: SlotBench) -> None:
    old = bench.publish("a")
    slot = bench.reserve("a")
    bench.table.begin_verify(ME, slot.index, slot.generation)
    bench.table.reject(slot)
    assert slot.state is SlotState.FREE
    assert bench.zeroed == [slot.index]
    assert bench.table.published("a") is old.content


def test_an_abandoned_reservation_is_zeroed_and_free(bench: SlotBench) -> None:
    slot = bench.reserve("a")
    generation = slot.generation
    bench.table.abandon("other", slot.index, generation)
    bench.table.abandon(ME, slot.index, generation + 1)
    bench.table.abandon(ME, 99, generation)
    assert slot.state is SlotState.RESERVED
    bench.table.abandon(ME, slot.index, generation)
    assert slot.state is SlotState.FREE
    assert bench.zeroed == [slot.index]
    bench.table.abandon(ME, slot.index, generation)
    assert bench.zeroed == [slot.index]


def test_abandoning_a_published_slot_changes_nothing(bench: SlotBench) -> None:
    slot = bench.publish("a")
    bench.table.abandon(ME, slot.index, slot.generation)
    bench.table.writer_is_gone(ME)
    bench.table.close_session(ME)
    assert slot.state is SlotState.READY
    assert bench.zeroed == []


@pytest.mark.parametrize("how", ["lease", "session"])
@pytest.mark.parametrize("end", ["gone", "abandon"])
def test_quarantine_is_left_only_when_the_writer_cannot_write(
    bench: SlotBench, how: str, end: str
) -> None:
    late = bench.reserve("late")
    generation = late.generation
    if how == "lease":
        bench.now = LEASE
        bench.table.expire_leases()
    else:
        bench.table.close_session(ME)
    assert late.state is SlotState.QUARANTINE
    others = [bench.reserve(name, session="next") for name in ("b", "c", "d", "e")]
    assert late not in others
    refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("f", session="next"))
    bench.table.writer_is_gone("next but not me")
    assert late.state is SlotState.QUARANTINE
    assert bench.zeroed == []
    if end == "gone":
        bench.table.writer_is_gone(ME)
    else:
        bench.table.abandon(ME, late.index, generation)
    assert late.state is SlotState.FREE
    assert bench.zeroed == [late.index]


def test_the_end_of_a_writer_frees_only_its_own_slots(bench: SlotBench) -> None:
    mine, other = bench.reserve("a"), bench.reserve("b", session="other")
    bench.table.writer_is_gone(ME)
    assert (mine.state, other.state) == (SlotState.FREE, SlotState.RESERVED)


def test_the_least_recently_used_is_evicted(bench: SlotBench) -> None:
    for name in "abcd":
        bench.publish(name)
    bench.table.release(bench.pin("a"))
    bench.publish("e")
    assert [n for n in "abcde" if bench.table.published(n)] == list("acde")
    bench.publish("f")
    assert [n for n in "abcdef" if bench.table.published(n)] == list("adef")


def test_a_pinned_slot_is_never_evicted(bench: SlotBench) -> None:
    for name in "abcd":
        bench.publish(name)
    held = [bench.pin("a"), bench.pin("b")]
    bench.publish("e")
    assert [n for n in "abcde" if bench.table.published(n)] == list("abde")
    held += [bench.pin("d"), bench.pin("e")]
    error = refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("f"))
    assert error.retry_after is not None
    assert "all 4 adapter slots are in use" in error.message
    bench.table.release(held[1])
    bench.publish("f")
    assert [n for n in "abcdef" if bench.table.published(n)] == list("adef")


def test_nothing_is_evicted_without_permission(bench: SlotBench) -> None:
    for name in "abcd":
        bench.publish(name)
    error = refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("e", evict=False))
    assert "taken" in error.message
    assert all(map(bench.table.published, "abcd"))


def test_an_update_uses_the_spare_while_all_others_are_pinned(bench: SlotBench) -> None:
    old = [bench.publish(name) for name in "abcd"]
    pins = {name: bench.pin(name) for name in "abcd"}
    refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("e"))
    update = bench.reserve("a", evict=False)
    assert update not in old
    bench.commit(update)
    assert old[0].state is SlotState.DRAINING
    assert bench.table.published("a") is update.content
    assert bench.pin("a").content.generation == update.generation > pins["a"].content.generation
    bench.table.release(pins["a"])
    assert old[0].state is SlotState.FREE


def test_a_draining_slot_is_freed_with_its_last_pin(bench: SlotBench) -> None:
    slot = bench.publish("a")
    first, second = bench.pin("a"), bench.pin("a")
    bench.table.unpublish("a")
    assert bench.table.pin("a") is None
    assert slot.state is SlotState.DRAINING
    assert slot.content is first.content
    bench.table.release(first)
    assert slot.state is SlotState.DRAINING
    bench.table.release(second)
    assert slot.state is SlotState.FREE
    with pytest.raises(AssertionError):
        bench.table.release(second)


def test_a_rewrite_there_and_back_again(bench: SlotBench) -> None:
    """A -> B -> A: each image keeps its version, and the second A is not the first."""
    first = bench.publish("a")
    old = bench.pin("a")
    bench.publish("a")
    middle = bench.pin("a")
    again = bench.publish("a")
    newest = bench.pin("a")
    assert len({pin.slot for pin in (old, middle, newest)}) == 3
    assert old.content.generation < middle.content.generation < newest.content.generation
    bench.table.release(old)
    assert first.state is SlotState.FREE
    bench.table.release(newest)
    bench.table.release(middle)
    assert bench.table.published("a") is again.content
    assert bench.states().count(SlotState.FREE) == 4


def test_names_being_written_count(bench: SlotBench) -> None:
    waiting = [bench.reserve(name) for name in "abcd"]
    refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("e"))
    for slot in waiting:
        bench.commit(slot)
    assert bench.states().count(SlotState.READY) == LIMIT


def test_evicting_a_name_that_is_being_updated_frees_no_name(bench: SlotBench) -> None:
    """The name returns with its update, so another name would exceed the limit."""
    for name in "abcd":
        bench.publish(name)
    update = bench.reserve("a")
    other = bench.reserve("e")
    bench.commit(update)
    bench.commit(other)
    assert sum(bench.table.published(name) is not None for name in "abcde") <= LIMIT


def test_can_reserve_counts_names_being_written(bench: SlotBench) -> None:
    for name in "abc":
        bench.publish(name)
        bench.pin(name)
    bench.reserve("d")
    refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("e"))
    assert not bench.table.can_reserve("e")
    assert bench.table.can_reserve("a")


def test_a_kept_adapter_is_not_evicted_for_others() -> None:
    bench = SlotBench(kept=("a", "never there"))
    for name in "abcdefgh":
        bench.publish(name)
        bench.table.release(bench.pin(name))
    assert [n for n in "abcdefgh" if bench.table.published(n)] == list("afgh")


def test_pinned_and_kept_adapters_leave_no_slot() -> None:
    bench = SlotBench(kept=("a",))
    for name in "abcd":
        bench.publish(name)
    pins = [bench.pin(name) for name in "bcd"]
    assert not bench.table.can_reserve("e")
    refused(Reason.NO_FREE_SLOT, lambda: bench.reserve("e"))
    bench.table.release(pins[0])
    assert bench.table.can_reserve("e")
    bench.publish("e")
    assert bench.table.published("a") is not None


def test_an_update_replaces_a_kept_adapter() -> None:
    bench = SlotBench(kept=("a",))
    old = bench.publish("a")
    new = bench.publish("a")
    assert bench.table.published("a") is new.content
    assert old.state is SlotState.FREE


def test_an_update_may_take_the_kept_versions_own_slot() -> None:
    """All slots are in use, the spare one too; otherwise the update would wait for images."""
    bench = SlotBench(kept=("a",))
    for name in "abcd":
        bench.publish(name)
    for name in "bcd":
        bench.pin(name)
    bench.publish("b")  # takes the spare slot; its old version drains
    bench.pin("b")
    assert SlotState.FREE not in bench.states()
    assert bench.table.can_reserve("a")
    bench.publish("a")
    assert bench.table.published("a") is not None


def test_a_kept_adapter_goes_with_its_file() -> None:
    bench = SlotBench(kept=("a",))
    slot = bench.publish("a")
    bench.table.unpublish("a")
    assert (bench.table.published("a"), slot.state) == (None, SlotState.FREE)
