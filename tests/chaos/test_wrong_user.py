"""Another user of the machine comes to the server's sockets."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.support.fakes import until
from tests.support.hand_manager import HandManager
from tests.support.harness import InProcessServer, running_server
from tests.support.other_user import OTHER_UID, needs_root

COME = """
import os, socket, sys
import grpc
from wuliart.internal.v1 import segment_pb2, segment_pb2_grpc
folder, user, token = sys.argv[1], int(sys.argv[2]), bytes.fromhex(sys.argv[3])
if user != os.geteuid():
    os.setgroups([])
    os.setuid(user)
with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
    connection.settimeout(10)
    try:
        connection.connect(folder + "/descriptors.sock")
        sent = connection.recv(32)
    except OSError as error:
        sent = type(error).__name__.encode()
with grpc.insecure_channel(f"unix:{folder}/control.sock") as channel:
    stub = segment_pb2_grpc.SegmentServiceStub(channel)
    stream = stub.Attach(segment_pb2.AttachRequest(token=token), timeout=10)
    try:
        next(stream)
        print(sent, "attached")
    except grpc.RpcError as error:
        print(sent, error.code().name)
"""
"""Prints what a process of this user is sent first, and how Attach with the token ends."""


@pytest.fixture
async def server() -> AsyncIterator[InProcessServer]:
    async with running_server() as running:
        yield running


async def come_as(server: InProcessServer, user: int, token: bytes) -> str:
    """Connects to the server as `user` and returns what the script `COME` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", COME, server.directory, str(user), token.hex(),
        stdout=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode().strip()


@asynccontextmanager
async def introduced(server: InProcessServer) -> AsyncIterator[HandManager]:
    """A manager of the server's user that has a token and has not used it."""
    manager = HandManager(server)
    await manager.introduce()
    yield manager
    manager.leave()


async def test_only_the_servers_user_gets_a_token(
    server: InProcessServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = os.geteuid()
    with monkeypatch.context() as patch:
        # To the server, every process of this user is now another user's.
        patch.setattr(os, "geteuid", lambda: OTHER_UID)
        assert await come_as(server, user, b"") == "b'' UNAUTHENTICATED"
    async with HandManager(server) as manager:
        await manager.load("ink")
        assert server.state_of("ink") == "resident"
    await until(lambda: not server.store.manager_attached)


@needs_root
async def test_another_user_is_stopped_by_the_folder_by_each_socket_and_by_the_token(
    server: InProcessServer,
) -> None:
    async with introduced(server) as manager:
        assert await come_as(server, OTHER_UID, b"") == "b'PermissionError' UNAVAILABLE"
        server.directory.chmod(0o755)
        assert await come_as(server, OTHER_UID, b"") == "b'PermissionError' UNAVAILABLE"
        for socket in ("control.sock", "descriptors.sock"):
            (server.directory / socket).chmod(0o666)
        assert await come_as(server, OTHER_UID, b"") == "b'' UNAUTHENTICATED"
        assert not server.store.manager_attached
        # A bearer of the token needs no other proof, as of any password; it is nowhere but in
        # the memory of the two.
        assert await come_as(server, OTHER_UID, manager.token[:-1] + b"?") == "b'' UNAUTHENTICATED"
        assert not server.store.manager_attached
