"""The control side: attach, reserve, write, commit, with a hand-written manager."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import numpy as np
import pytest
import xxhash

from tests.support.calls import failure_of
from tests.support.fakes import until
from tests.support.hand_manager import HandManager, entry_of
from tests.support.harness import CONDITIONING, LAYOUT, InProcessServer, running_server
from wuliart.internal.v1 import segment_pb2 as pb


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


@pytest.fixture
async def manager(server: InProcessServer) -> AsyncIterator[HandManager]:
    async with HandManager(server) as attached:
        yield attached


def lose_the_lease(server: InProcessServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes every lease run out."""
    clock = server.store.slots._clock
    monkeypatch.setattr(server.store.slots, "_clock", lambda: clock() + 3600)


async def test_attaching_describes_the_segment(
    server: InProcessServer, manager: HandManager
) -> None:
    attached = manager.attached
    assert manager.layout.hash == attached.layout_hash == LAYOUT.hash
    assert np.array_equal(manager.conditioning, CONDITIONING)
    assert attached.segment_bytes == 3 * LAYOUT.slot_bytes
    assert attached.resident_limit == 2
    assert attached.epoch == server.store.epoch
    assert server.store.manager_attached


async def test_a_wrong_checksum_publishes_nothing(
    server: InProcessServer, manager: HandManager
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    manager.memory[reservation.offset + 17] ^= 1
    failure = await failure_of(manager.commit(reservation, entry, image))
    assert failure.code is grpc.StatusCode.DATA_LOSS
    assert failure.reason == "CHECKSUM_MISMATCH"
    assert server.state_of("ink") == "none"
    # The slot was given back and wiped; a new try works.
    assert not any(manager.memory[reservation.offset : reservation.offset + image.data.size])
    await manager.load("ink")
    assert server.state_of("ink") == "resident"


async def test_what_lies_beyond_the_checksum_is_not_read(
    server: InProcessServer, manager: HandManager
) -> None:
    """A site that reaches past `written_bytes` would make images use unverified bytes."""
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    part = image.data[:100]
    failure = await failure_of(
        manager.commit(
            reservation,
            entry,
            image,
            written_bytes=100,
            checksum=xxhash.xxh3_128(part.tobytes()).digest(),
        )
    )
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert server.state_of("ink") == "none"


def product(rows: int, columns: int) -> pb.KroneckerProduct:
    """One of img_in, which is [32, 16], that no bytes were written for."""
    return pb.KroneckerProduct(module="img_in", first_rows=rows, first_columns=columns)


@pytest.mark.parametrize(
    "overrides",
    [
        {"sites": ["block9.img_qkv"]},
        {"packed_rank": 0},
        {"packed_rank": 9},
        {"kronecker": [product(1, 1)]},
        {"kronecker": [product(3, 1)]},
        {"kronecker": [product(0, 0)]},
        {"sites": [], "kronecker": 2 * [product(32, 16)]},
        {"written_bytes": 0},
        {"written_bytes": 1 << 40},
        {"entry": entry_of("oil")},
        {"entry": None},
    ],
    ids=[
        "no such site",
        "rank 0",
        "rank 9",
        "product beyond the bytes",
        "product of a third",
        "product of nothing",
        "product twice",
        "0 bytes",
        "too many bytes",
        "other name",
        "no entry",
    ],
)
async def test_a_commit_that_does_not_fit_its_slot(
    server: InProcessServer, manager: HandManager, overrides: dict[str, Any]
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    failure = await failure_of(manager.commit(reservation, entry, image, **overrides))
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert not server.store.catalog.adapters
    await manager.load("ink")


@pytest.mark.parametrize(
    "overrides", [{"slot": 2}, {"slot": 2**32 - 1}, {"generation": 99}, {"generation": 0}]
)
async def test_a_commit_without_a_reservation(
    server: InProcessServer, manager: HandManager, overrides: dict[str, int]
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    failure = await failure_of(manager.commit(reservation, entry, image, **overrides))
    assert failure.code is grpc.StatusCode.ABORTED
    assert failure.reason == "RESERVATION_LOST"
    await manager.commit(reservation, entry, image)
    assert server.state_of("ink") == "resident"


async def test_a_reservation_that_is_retried_is_the_same(manager: HandManager) -> None:
    first = await manager.reserve("ink", "request 1")
    assert await manager.reserve("ink", "request 1") == first
    other = await manager.reserve("oil", "request 2")
    assert (other.slot, other.generation) != (first.slot, first.generation)


async def test_a_commit_that_is_retried_changes_nothing(
    server: InProcessServer, manager: HandManager
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    first = await manager.commit(reservation, entry, image)
    before = server.store.catalog.get("ink")
    assert await manager.commit(reservation, entry, image) == first
    assert server.store.catalog.get("ink") == before


async def test_a_commit_after_the_lease_comes_too_late(
    server: InProcessServer, manager: HandManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    late = await manager.reserve("ink")
    manager.write(late, image)
    lose_the_lease(server, monkeypatch)
    failure = await failure_of(manager.commit(late, entry, image))
    assert failure.code is grpc.StatusCode.ABORTED
    assert failure.reason == "RESERVATION_LOST"
    assert server.state_of("ink") == "none"
    # The writer may still be writing: the slot stays reserved for it until it abandons it.
    others = [await manager.reserve(name) for name in ("a", "b")]
    assert late.slot not in {other.slot for other in others}
    for other in others:
        await manager.abandon(other)
    await manager.abandon(late)
    assert (await manager.reserve("ink")).slot == late.slot


async def test_an_abandoned_slot_is_zeroed_and_free(
    server: InProcessServer, manager: HandManager
) -> None:
    image = manager.image(manager.content())
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    for _ in range(2):
        await manager.abandon(reservation)
    assert not any(manager.memory[reservation.offset : reservation.offset + image.data.size])
    again = await manager.reserve("ink")
    assert again.slot == reservation.slot
    assert again.generation > reservation.generation


async def test_slots_that_are_all_taken(server: InProcessServer, manager: HandManager) -> None:
    for name in ("a", "b"):
        await manager.load(name)
    failure = await failure_of(manager.reserve("c", evict=False))
    assert failure.code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert failure.reason == "NO_FREE_SLOT"
    assert server.state_of("a") == server.state_of("b") == "resident"
    await manager.load("c")
    assert server.state_of("a") == "available"


async def test_a_second_manager_is_refused_and_the_first_stays(
    server: InProcessServer, manager: HandManager
) -> None:
    second = HandManager(server)
    await second.introduce()
    failure = await failure_of(second.stub.Attach(pb.AttachRequest(token=second.token)))
    second.leave()
    assert failure.code is grpc.StatusCode.FAILED_PRECONDITION
    assert failure.reason == "MANAGER_ALREADY_ATTACHED"
    await manager.load("ink")
    assert server.state_of("ink") == "resident"


async def test_a_session_that_ended_can_do_nothing(
    server: InProcessServer, manager: HandManager
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.detach()
    await until(lambda: not server.store.manager_attached)
    for call in (
        manager.report(entry),
        manager.reserve("ink"),
        manager.commit(reservation, entry, image),
    ):
        failure = await failure_of(call)
        assert failure.code is grpc.StatusCode.ABORTED
        assert failure.reason == "SESSION_LOST"
    assert not server.store.catalog.adapters

    async with HandManager(server) as successor:
        assert successor.attached.session_id != manager.attached.session_id
        assert successor.attached.epoch == manager.attached.epoch
        # The one before is attached no more, but alive and may still write to its slot.
        assert (await successor.reserve("ink")).slot != reservation.slot
        failure = await failure_of(manager.commit(reservation, entry, image))
        assert failure.reason == "SESSION_LOST"


async def test_a_manager_that_vanishes_while_its_commit_is_checked(
    server: InProcessServer, manager: HandManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = manager.content()
    entry, image = entry_of("ink", content), manager.image(content)
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    checking, go_on = asyncio.Event(), asyncio.Event()
    loop, checksum = asyncio.get_running_loop(), server.store.segment.checksum

    def slow_checksum(slot: int, nbytes: int) -> bytes:
        loop.call_soon_threadsafe(checking.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result()
        return checksum(slot, nbytes)

    monkeypatch.setattr(server.store.segment, "checksum", slow_checksum)
    committing = manager.commit(reservation, entry, image)
    await checking.wait()
    committing.cancel()
    manager.detach()
    manager.unmap()
    await until(lambda: not server.store.manager_attached)
    go_on.set()
    monkeypatch.undo()
    await until(lambda: all(slot.session == "" for slot in server.store.slots.slots))
    async with HandManager(server) as successor:
        await successor.load("ink")
        assert server.state_of("ink") == "resident"
    # The fixture closes this session.
    manager.memory, manager.connection = successor.memory, successor.connection
