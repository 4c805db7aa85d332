"""Slots, memory and catalog together, as the manager changes them and requests bind them."""

# A slot's state changes between asserts; mypy narrows it by the first one.
# mypy: disable-error-code="comparison-overlap"

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from inference_server.adapters.binding import Binding
from inference_server.adapters.changes import ChangeKind
from inference_server.adapters.records import AdapterState, AdapterWeight, FileEntry
from inference_server.adapters.slot_state import SlotState
from inference_server.errors import RequestError
from tests.support.store_bench import IMAGES, LAYOUT, StoreBench, entry, make_bench, refused
from wuliart_contract.status import Reason


@pytest.fixture
async def bench() -> StoreBench:
    return make_bench()


async def test_a_published_adapter_is_listed_and_bound(bench: StoreBench) -> None:
    assert bench.store.resident_bytes() == 0
    slot = await bench.publish("a")
    assert bench.states() == {"a": AdapterState.RESIDENT}
    assert bench.store.resident_bytes() == LAYOUT.slot_bytes
    bench.binder.check([AdapterWeight("a", 1.0)])
    binding = await bench.binder.bind([AdapterWeight("a", 0.5)])
    (pin,), (gated,) = binding.pins, binding.gated
    assert (pin.content.entry, pin.content.generation) == (entry("a"), slot.generation)
    assert gated.gate == 0.5
    assert gated.tensors is pin.content.tensors
    assert {*gated.tensors.factors, *gated.tensors.deltas} == set(IMAGES[0].sites)
    assert bench.pins() == 1
    bench.binder.release(binding)
    assert bench.pins() == 0


async def test_no_adapters_bind_to_nothing(bench: StoreBench) -> None:
    binding = await bench.bind()
    assert (binding.pins, binding.gated) == ((), ())
    bench.binder.release(binding)


async def test_a_weight_of_zero_is_bound_and_not_applied(bench: StoreBench) -> None:
    for name in "ab":
        await bench.publish(name)
    binding = await bench.binder.bind([AdapterWeight("b", 0.0), AdapterWeight("a", -2.0)])
    assert [pin.content.entry.name for pin in binding.pins] == ["b", "a"]
    assert [gated.gate for gated in binding.gated] == [-2.0]


async def test_a_binding_keeps_its_version_while_the_file_changes(bench: StoreBench) -> None:
    """A -> B -> A: every image is generated with exactly one version from its start to its end."""
    bindings = []
    for version in (0, 1, 0):
        await bench.publish("a", version)
        bindings.append(await bench.bind("a"))
    site = IMAGES[0].sites[0]

    def down(binding: Binding) -> torch.Tensor:
        return binding.gated[0].tensors.factors[site].down

    first, second, third = map(down, bindings)
    assert torch.equal(first, third)
    assert not torch.equal(first, second)
    assert len({binding.pins[0].slot for binding in bindings}) == 3
    for binding in bindings:
        bench.binder.release(binding)
    assert (bench.count(SlotState.READY), bench.count(SlotState.FREE)) == (1, 4)


async def test_a_second_manager_is_refused(bench: StoreBench) -> None:
    await refused(Reason.MANAGER_ALREADY_ATTACHED, bench.store.attach)
    assert bench.store.manager_attached
    bench.store.detach(bench.session)
    assert not bench.store.manager_attached
    assert bench.store.attach().id != bench.session.id


async def test_only_the_attached_session_may_change_adapters(bench: StoreBench) -> None:
    slot = bench.write("a")
    bench.store.detach(bench.session)
    following = bench.store.attach()
    store, old = bench.store, bench.session.id
    await refused(Reason.SESSION_LOST, lambda: store.reserve(old, "x", "b", evict=True))
    await refused(Reason.SESSION_LOST, lambda: store.report(old, []))
    await refused(Reason.SESSION_LOST, lambda: bench.commit(slot))
    bench.store.detach(bench.session)
    assert bench.store.manager_attached, "a late end of the old session is not that of the new one"
    bench.session = following
    await bench.publish("a")


async def test_a_session_that_ended_leaves_quarantine_until_its_process_is_gone(
    bench: StoreBench,
) -> None:
    slot = bench.write("a")
    index, old = slot.index, bench.session.id
    bench.store.detach(bench.session)
    assert slot.state is SlotState.QUARANTINE
    bench.session = bench.store.attach()
    for name in "bcde":
        assert (await bench.publish(name)).index != index
    assert any(bench.memory(index))
    bench.store.writer_is_gone(old)
    assert slot.state is SlotState.FREE
    assert not any(bench.memory(index))


async def test_a_process_that_is_gone_gets_no_slot(bench: StoreBench) -> None:
    """Its last request may still be in the socket; its slot would never be freed."""
    bench.store.writer_is_gone(bench.session.id)
    with pytest.raises(RequestError):
        bench.store.reserve(bench.session.id, "late", "a", evict=True)
    bench.store.detach(bench.session)
    assert bench.count(SlotState.FREE) == 5


async def test_the_process_may_end_before_its_session(bench: StoreBench) -> None:
    bench.write("a")
    bench.store.writer_is_gone(bench.session.id)
    bench.store.detach(bench.session)
    assert bench.count(SlotState.FREE) == 5


async def test_a_commit_after_the_lease_is_refused(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    slot = bench.write("a")
    index, generation = slot.index, slot.generation
    slot.lease_ends = 0.0
    await refused(Reason.RESERVATION_LOST, lambda: bench.commit(slot))
    assert (slot.state, bench.states()) == (SlotState.QUARANTINE, {})
    assert bench.write("a").index != index
    bench.store.abandon(bench.session.id, index, generation)
    assert slot.state is SlotState.FREE
    assert not any(bench.memory(index))


WRONG_COMMITS: dict[str, tuple[Reason, dict[str, Any]]] = {
    "checksum": (Reason.CHECKSUM_MISMATCH, {"checksum": bytes(16)}),
    "no checksum": (Reason.CHECKSUM_MISMATCH, {"checksum": b""}),
    "another version's": (Reason.CHECKSUM_MISMATCH, {"checksum": IMAGES[1].checksum}),
    "foreign name": (Reason.INVALID_REQUEST, {"entry": entry("b")}),
    "oversized": (Reason.INVALID_REQUEST, {"written_bytes": LAYOUT.slot_bytes + 1}),
    "far oversized": (Reason.INVALID_REQUEST, {"written_bytes": 1 << 63}),
    "nothing written": (Reason.INVALID_REQUEST, {"written_bytes": 0}),
    "unknown site": (Reason.INVALID_REQUEST, {"sites": ["img_in", "block9.img_qkv"]}),
    "rank zero": (Reason.INVALID_REQUEST, {"packed_rank": 0}),
    "rank too large": (Reason.INVALID_REQUEST, {"packed_rank": 5}),
    "unknown product": (Reason.INVALID_REQUEST, {"kronecker": {"img_on": (1, 1)}}),
    "product of a table": (Reason.INVALID_REQUEST, {"kronecker": {"norm_out.linear": (1, 1)}}),
    "product of no shape": (Reason.INVALID_REQUEST, {"kronecker": {"img_in": (0, 0)}}),
    "product that divides nothing": (Reason.INVALID_REQUEST, {"kronecker": {"img_in": (5, 1)}}),
    "product beyond the bytes": (Reason.INVALID_REQUEST, {"kronecker": {"img_in": (1, 1)}}),
}


@pytest.mark.parametrize("wrong", WRONG_COMMITS)
async def test_a_wrong_commit_leaves_the_store_healthy(bench: StoreBench, wrong: str) -> None:
    reason, fields = WRONG_COMMITS[wrong]
    before = await bench.publish("a", 1)
    slot = bench.write("a")
    index = slot.index
    error = await refused(reason, lambda: bench.commit(slot, **fields))
    assert str(error)
    assert slot.state is SlotState.FREE
    assert not any(bench.memory(index)), "what was not verified must not stay"
    binding = await bench.bind("a")
    assert binding.pins[0].content is before.content
    assert bench.states() == {"a": AdapterState.RESIDENT}
    bench.binder.release(binding)
    await bench.publish("a")
    await bench.publish("b")


async def test_a_commit_must_cover_the_sites_it_names(bench: StoreBench) -> None:
    """Bytes beyond `written_bytes` are not in the checksum: nothing may be read from there."""
    slot = bench.write("a")
    short = IMAGES[0].data[:-64]
    offset = bench.store.segment.offset(slot.index)
    os.pwrite(bench.store.segment.descriptor, b"\xff" * 64, offset + short.size)
    checksum = bench.store.segment.checksum(slot.index, short.size)
    await refused(
        Reason.INVALID_REQUEST,
        lambda: bench.commit(slot, checksum=checksum, written_bytes=short.size),
    )
    assert bench.store.slots.published("a") is None


async def test_a_flipped_bit_in_the_slot_is_found(bench: StoreBench) -> None:
    slot = bench.write("a")
    at = bench.store.segment.offset(slot.index) + 5
    os.pwrite(bench.store.segment.descriptor, bytes([int(IMAGES[0].data[5]) ^ 8]), at)
    await refused(Reason.CHECKSUM_MISMATCH, lambda: bench.commit(slot))
    await bench.publish("a")


async def test_a_repeated_commit_changes_nothing(bench: StoreBench) -> None:
    slot = await bench.publish("a")
    revision = bench.store.catalog.revision
    await bench.commit(slot)
    assert bench.store.catalog.revision == revision
    assert slot.state is SlotState.READY


async def test_a_cancelled_commit_gives_the_slot_back(
    bench: StoreBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = asyncio.Event(), asyncio.Event()

    async def slowly(*_: object) -> bytes:
        entered.set()
        await leave.wait()
        return b""

    slot = bench.write("a")
    monkeypatch.setattr(asyncio, "to_thread", slowly)
    commit = asyncio.create_task(bench.commit(slot))
    await entered.wait()
    assert slot.state is SlotState.VERIFYING
    commit.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    # The worker still reads the slot, so it must not be reserved again.
    assert slot.state is SlotState.VERIFYING
    leave.set()
    with pytest.raises(asyncio.CancelledError):
        await commit
    assert (slot.state, bench.pins()) == (SlotState.FREE, 0)
    assert not any(bench.memory(slot.index))


async def test_a_report_is_listed(bench: StoreBench) -> None:
    bench.report(entry("b"), entry("a"), entry("c", refusal="rank 99"))
    assert bench.states() == {
        "a": AdapterState.AVAILABLE, "b": AdapterState.AVAILABLE, "c": AdapterState.REFUSED,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("later", "state"),
    [
        (None, None),
        (entry("a", refusal="damaged"), AdapterState.REFUSED),
        (entry("a", 1), AdapterState.AVAILABLE),
    ],
    ids=["vanished", "refused", "changed"],
)
async def test_a_version_that_is_no_longer_the_file_drains(
    bench: StoreBench, later: FileEntry | None, state: AdapterState | None
) -> None:
    slot, other = await bench.publish("a"), await bench.publish("b")
    binding = await bench.bind("a")
    before = bench.memory(slot.index)
    watch = bench.store.catalog.watch(bench.store.catalog.revision)
    bench.report(*[later] if later else [], entry("b"))
    assert bench.states().get("a") is state
    assert (slot.state, other.state) == (SlotState.DRAINING, SlotState.READY)
    assert bench.memory(slot.index) == before
    kinds = {AdapterState.REFUSED: ChangeKind.REFUSED, AdapterState.AVAILABLE: ChangeKind.UPDATED}
    assert (await anext(watch)).kind is (ChangeKind.REMOVED if state is None else kinds[state])
    bench.binder.release(binding)
    assert slot.state is SlotState.FREE


async def test_a_new_description_of_the_same_content_stays_resident(bench: StoreBench) -> None:
    slot = await bench.publish("a")
    bench.report(replace(entry("a"), title="Better"))
    assert (bench.states(), slot.state) == ({"a": AdapterState.RESIDENT}, SlotState.READY)
    assert bench.store.catalog.adapters[0].entry.title == "Better"


async def test_an_evicted_adapter_stays_listed(bench: StoreBench) -> None:
    for name in "abcd":
        await bench.publish(name)
    await bench.publish("e")
    assert bench.states()["a"] is AdapterState.AVAILABLE
    assert bench.states()["e"] is AdapterState.RESIDENT
    assert bench.store.resident_bytes() == 4 * LAYOUT.slot_bytes


async def test_a_request_that_cannot_be_generated_is_refused_at_once(bench: StoreBench) -> None:
    bench.report(entry("水墨画"), entry("bad", refusal="rank 99 is too large"))

    def check(name: str) -> Callable[[], None]:
        return lambda: bench.binder.check([AdapterWeight("水墨画", 1.0), AdapterWeight(name, 1.0)])

    error = await refused(Reason.ADAPTER_NOT_FOUND, check("水墨"))
    assert error.metadata == {"adapter": "水墨", "nearest": "水墨画"}
    assert "'水墨'" in error.message
    assert "'水墨画'" in error.message
    error = await refused(Reason.ADAPTER_NOT_FOUND, check("bad one"))
    assert error.metadata == {"adapter": "bad one"}
    error = await refused(Reason.ADAPTER_REFUSED, check("bad"))
    assert "rank 99 is too large" in error.message
    for name, reason in (("x", Reason.ADAPTER_NOT_FOUND), ("bad", Reason.ADAPTER_REFUSED)):
        await refused(reason, lambda name=name: bench.bind(name))  # type: ignore[misc]
    assert bench.pins() == 0
    assert bench.session.promotions.empty()


async def test_a_pending_name_keeps_its_last_entry(bench: StoreBench) -> None:
    await bench.publish("a")
    await bench.publish("b")
    bench.store.report(bench.session.id, [entry("b")], pending=["a", "never seen"])
    assert bench.states() == {"a": AdapterState.RESIDENT, "b": AdapterState.RESIDENT}
    assert bench.store.slots.published("a") is not None
    bench.store.report(bench.session.id, [entry("b")])
    assert bench.states() == {"b": AdapterState.RESIDENT}
    assert bench.store.slots.published("a") is None


async def test_binding_without_waiting_is_all_or_nothing(bench: StoreBench) -> None:
    await bench.publish("a")
    assert bench.binder.try_bind([AdapterWeight("a", 1.0), AdapterWeight("absent", 1.0)]) is None
    assert bench.pins() == 0
    binding = bench.binder.try_bind([AdapterWeight("a", 0.5)])
    assert binding is not None
    assert bench.pins() == 1
    assert binding.gated[0].gate == 0.5
    bench.binder.release(binding)
    assert bench.pins() == 0
