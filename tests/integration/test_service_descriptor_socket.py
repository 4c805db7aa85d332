"""The socket that hands out the segment, and what its connection's end means."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import stat
from collections.abc import AsyncIterator

import pytest

from inference_server.adapters.slots import SlotState
from tests.fakes import until
from tests.hand_manager import HandManager, fetch_descriptor
from tests.harness import InProcessServer, running_server


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def fetch(manager: HandManager, token: bytes) -> int | None:
    """The descriptor; None if it was refused. The connection is closed."""
    path = manager.attached.descriptor_socket
    descriptor, connection = await asyncio.to_thread(fetch_descriptor, path, token)
    connection.close()
    return descriptor


def free_slots(server: InProcessServer) -> int:
    return sum(slot.state is SlotState.FREE for slot in server.store.slots.slots)


async def test_the_segment_is_sealed_and_shared(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        seals = fcntl.fcntl(server.store.segment.descriptor, fcntl.F_GET_SEALS)
        assert seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_GROW
        manager.memory[5] = 77
        os_view = os.pread(server.store.segment.descriptor, 1, 5)
        assert os_view == bytes([77])


async def test_only_the_owner_may_connect(server: InProcessServer) -> None:
    mode = stat.S_IMODE((server.directory / "descriptors.sock").stat().st_mode)
    assert mode == 0o600


@pytest.mark.parametrize("token", [b"\0" * 32, b"short", b"\xff" * 31])
async def test_a_wrong_token_gets_nothing(server: InProcessServer, token: bytes) -> None:
    manager = HandManager(server)
    await manager.attach()
    assert await fetch(manager, token) is None
    # The right one still works.
    await manager.map()
    manager.detach()
    manager.unmap()


async def test_a_token_works_once(server: InProcessServer) -> None:
    async with HandManager(server) as manager:
        assert await fetch(manager, manager.attached.descriptor_token) is None
        await manager.load("ink")


async def test_a_token_of_a_session_that_ended_gets_nothing(server: InProcessServer) -> None:
    manager = HandManager(server)
    await manager.attach()
    manager.detach()
    await until(lambda: not server.store.manager_attached)
    assert await fetch(manager, manager.attached.descriptor_token) is None


async def test_a_connection_that_says_nothing_holds_up_nobody(server: InProcessServer) -> None:
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
    # It may still be writing: the slot belongs to nobody.
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


async def test_a_session_without_a_connection_leaves_nothing_behind(
    server: InProcessServer,
) -> None:
    manager = HandManager(server)
    await manager.attach()
    await manager.reserve("ink")
    manager.detach()
    await until(lambda: not server.store.manager_attached)
    await until(lambda: free_slots(server) == 3)


async def test_a_manager_that_dies_between_token_and_descriptor(
    server: InProcessServer,
) -> None:
    manager = HandManager(server)
    await manager.attach()
    await manager.reserve("ink")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(manager.attached.descriptor_socket)
        connection.sendall(manager.attached.descriptor_token)
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
            await manager.load(f"style-{n}")
            await manager.reserve("unfinished")
        await until(lambda: not server.store.manager_attached)
        await until(lambda: free_slots(server) == 2)
