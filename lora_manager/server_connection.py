"""The server's two sockets, reached only after checking that they are this user's.

Checks the folder, and the process that listens on each socket, before a byte is sent. No path comes
from the server: the folder is the manager's own setting.
"""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora_manager.segment_errors import ServerAbsentError, SessionLostError, UntrustedServerError
from wuliart_process.peer import Peer
from wuliart_process.private_dir import PrivateDirError, open_private_dir
from wuliart_process.sockets import CONTROL_SOCKET, DESCRIPTOR_SOCKET, TOKEN_BYTES

_TOKEN_SECONDS: Final = 5.0

_ABSENT: Final = (FileNotFoundError, ConnectionRefusedError)


@dataclass(frozen=True, slots=True)
class ServerConnection:
    """An open connection to the descriptor socket, and the token received over it."""

    connection: socket.socket
    """To the descriptor socket; the server takes its closing as the writer's end."""
    token: bytes
    """For `AttachRequest.token`."""


async def connect_to_server(runtime_dir: Path) -> ServerConnection:
    """Connects to the descriptor socket and receives a token.

    Raises:
        UntrustedServerError: another user owns or can change the folder, or listens on a socket.
        ServerAbsentError: nothing listens there.
        SessionLostError: no token came, or a socket cannot be opened.
    """
    try:
        os.close(open_private_dir(runtime_dir))
        # gRPC cannot say who listens. In this folder no other user can change that afterwards.
        _connect(runtime_dir / CONTROL_SOCKET).close()
        connection = _connect(runtime_dir / DESCRIPTOR_SOCKET)
    except PrivateDirError as error:
        raise UntrustedServerError(str(error)) from None
    except _ABSENT:
        raise ServerAbsentError(f"no server listens in {runtime_dir}") from None
    except OSError as error:
        raise SessionLostError(
            f"cannot connect to the server in {runtime_dir}: {error.strerror or error}"
        ) from None
    try:
        return ServerConnection(connection, await _token(connection))
    except BaseException:
        connection.close()
        raise


def _connect(path: Path) -> socket.socket:
    """A connection to a listener of this user, not blocking."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        try:
            connection.connect(str(path))
        except BlockingIOError:
            raise SessionLostError(f"the server takes no connections on {path.name}") from None
        peer = Peer.of(connection)
        if not peer.is_this_user:
            raise UntrustedServerError(
                f"{path} is served by process {peer.pid} of user {peer.uid}, not of user "
                f"{os.geteuid()}; stop that process, or name another folder with --runtime-dir"
            )
    except BaseException:
        connection.close()
        raise
    return connection


async def _token(connection: socket.socket) -> bytes:
    loop = asyncio.get_running_loop()
    token = b""
    try:
        async with asyncio.timeout(_TOKEN_SECONDS):
            while len(token) < TOKEN_BYTES:
                more = await loop.sock_recv(connection, TOKEN_BYTES - len(token))
                if not more:
                    raise SessionLostError("the server closed the connection before its token")
                token += more
    except TimeoutError:
        raise SessionLostError(f"no token came within {_TOKEN_SECONDS:.0f} seconds") from None
    except OSError as error:
        raise SessionLostError(f"the server's token did not come: {error.strerror}") from None
    return token
