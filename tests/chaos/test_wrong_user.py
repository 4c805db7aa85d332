"""Another user of the machine asks for the segment."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator

import pytest

from tests.fakes import until
from tests.hand_manager import HandManager
from tests.harness import InProcessServer, running_server

NOBODY = 65534

ASK = """
import os, socket, sys
user = int(sys.argv[3])
if user != os.geteuid():
    os.setgroups([])
    os.setuid(user)
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.settimeout(10)
    connection.connect(sys.argv[1])
    try:
        connection.sendall(bytes.fromhex(sys.argv[2]))
        print(len(socket.recv_fds(connection, 1, 1)[1]))
    except ConnectionError:
        print(0)
"""
"""Prints how many descriptors a process of this user gets that knows path and token."""


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def ask_as(manager: HandManager, user: int) -> tuple[str, str]:
    """What the script printed, and how it failed."""
    attached = manager.attached
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", ASK,
        attached.descriptor_socket, attached.descriptor_token.hex(), str(user),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, error = await process.communicate()
    return out.decode().strip(), error.decode()


async def test_whoever_is_not_the_servers_user_gets_no_descriptor(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    manager = HandManager(server)
    await manager.attach()
    user = os.geteuid()
    with monkeypatch.context() as patch:
        # To the server, everybody of this user is now somebody else.
        patch.setattr(os, "geteuid", lambda: NOBODY)
        assert await ask_as(manager, user) == ("0", "")
    # That has not used up the token.
    await manager.map()
    await manager.load("ink")
    assert server.state_of("ink") == "resident"
    manager.detach()
    manager.unmap()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_another_user_is_stopped_by_the_folder_and_if_that_is_open_by_the_socket(
    server: InProcessServer,
) -> None:
    manager = HandManager(server)
    await manager.attach()
    out, error = await ask_as(manager, NOBODY)
    assert not out and "PermissionError" in error
    server.directory.chmod(0o755)
    out, error = await ask_as(manager, NOBODY)
    assert not out and "PermissionError" in error
    server.descriptors.path.chmod(0o666)
    assert await ask_as(manager, NOBODY) == ("0", "")
    manager.detach()
    await until(lambda: not server.store.manager_attached)
