"""The descriptor socket: authenticates the manager, sends the segment, notices the writer's end."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator

import grpc
import pytest

from inference_server.adapters.slot_state import SlotState
from inference_server.service import descriptor_socket
from tests.support.calls import failure_of
from tests.support.fakes import until
from tests.support.hand_manager import HandManager
from tests.support.harness import InProcessServer, running_server
from wuliart.internal.v1 import segment_pb2 as pb


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def assert_refused(manager: HandManager, token: bytes) -> None:
    """Checks that attaching with this token fails and opens no session."""
    failure = await failure_of(manager.stub.Attach(pb.AttachRequest(token=token)))
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED")


def free_slots(server: InProcessServer) -> int:
    return sum(slot.state is SlotState.FREE for slot in server.store.slots.slots)


async def test_the_segment_is_sealed_and_shared(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        seals = fcntl.fcntl(server.store.segment.descriptor, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_GROW
        manager.memory[5] = 77
        os_view = os.pread(server.store.segment.descriptor, 1, 5)
        assert os_view == bytes([77])


@pytest.mark.parametrize("name", ["descriptors.sock", "control.sock"])
async def test_only_the_owner_may_connect(server: InProcessServer, name: str) -> None:
    mode = stat.S_IMODE((server.directory / name).stat().st_mode)
    assert mode == 0o600


@pytest.mark.parametrize("token", [b"", b"\0" * 32, b"short", b"\xff" * 33])
async def test_a_made_up_token_opens_no_session(server: InProcessServer, token: bytes) -> None:
    manager = HandManager(server)
    await assert_refused(manager, token)
    assert not server.store.manager_attached
    async with manager:
        await manager.load("ink")


async def test_a_token_works_once(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await assert_refused(manager, manager.token)
        await manager.load("ink")


async def test_a_token_ends_with_its_connection(server: InProcessServer) -> None:
    manager = HandManager(server)
    await manager.introduce()
    manager.leave()
    await until(lambda: not server.descriptors._waiting)
    await assert_refused(manager, manager.token)


async def test_a_token_that_nothing_uses_ends_and_so_does_its_connection(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptor_socket, "ATTACH_SECONDS", 0.05)
    manager = HandManager(server)
    await manager.introduce()
    assert await asyncio.to_thread(manager.connection.recv, 1) == b""
    await assert_refused(manager, manager.token)
    # A session's own connection has no such limit.
    async with manager:
        await asyncio.sleep(0.2)
        await manager.load("ink")


async def test_a_connection_that_does_nothing_delays_no_manager(server: InProcessServer) -> None:
    silent = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with silent:
        silent.connect(str(server.directory / "descriptors.sock"))
        async with HandManager(server) as manager:
            await manager.load("ink")


async def test_a_reservation_outlives_the_session_but_not_the_connection(
    server: InProcessServer,
) -> None:
    manager = HandManager(server)
    await manager.attach()
    await manager.map()
    image = manager.image(manager.content())
    reservation = await manager.reserve("ink")
    manager.write(reservation, image)
    manager.detach()
    await until(lambda: not server.store.manager_attached)
    # The manager may still be writing: the slot stays in quarantine.
    assert free_slots(server) == 2
    manager.unmap()
    await until(lambda: free_slots(server) == 3)
    descriptor = server.store.segment.descriptor
    assert not any(os.pread(descriptor, image.data.size, reservation.offset))


async def test_the_connection_may_end_before_the_session(server: InProcessServer) -> None:
    manager = HandManager(server)
    await manager.attach()
    await manager.map()
    await manager.reserve("ink")
    manager.unmap()
    await until(lambda: free_slots(server) == 3)
    manager.detach()
    await until(lambda: not server.store.manager_attached)
    async with HandManager(server) as successor:
        await successor.load("ink")


async def test_a_manager_that_leaves_before_it_takes_the_descriptor(
    server: InProcessServer,
) -> None:
    manager = HandManager(server)
    await manager.attach()
    await manager.reserve("ink")
    manager.leave()
    await until(lambda: free_slots(server) == 3)
    manager.detach()
    await until(lambda: not server.store.manager_attached)
    async with HandManager(server) as successor:
        await successor.load("ink")


async def test_resident_adapters_outlive_the_connection(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        await manager.load("ink")
        await manager.reserve("oil")
    await until(lambda: free_slots(server) == 2)
    assert server.store.slots.published("ink") is not None


async def test_managers_may_come_and_go_many_times(server: InProcessServer) -> None:
    for n in range(4):
        async with HandManager(server) as manager:
            await manager.load(f"adapter-{n}")
            await manager.reserve("unfinished")
        await until(lambda: not server.store.manager_attached)
        await until(lambda: free_slots(server) == 2)
