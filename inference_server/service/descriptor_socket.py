"""Hands the segment's file descriptor to the attached LoRA manager, and notices its end.

gRPC cannot carry descriptors, so a second Unix socket does. Owns that socket, the check of the
peer's user, and the watch over the connection: it stays open for as long as the manager may write,
and the kernel closes it only after it has torn down the dead process's mappings.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

log = logging.getLogger(__name__)

TOKEN_BYTES = 32
HANDSHAKE_SECONDS = 5.0


class DescriptorSocket:
    """Listens for the one manager that was told the token.

    Args:
        path: of the socket, in a directory only the owner can enter.
        descriptor: tells what to hand out.
        on_writer_gone: called with the session's id once its process can no longer write.
    """

    def __init__(
        self, path: Path, descriptor: Callable[[], int], on_writer_gone: Callable[[str], None]
    ) -> None:
        self.path = path
        self._descriptor = descriptor
        self._on_writer_gone = on_writer_gone
        self._expected: dict[bytes, str] = {}
        self._peers: set[asyncio.Task[None]] = set()
        self._acceptor: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Binds and listens; needs a running event loop.

        Raises:
            OSError: the path cannot be bound.
        """
        self.path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(self.path))
        self.path.chmod(0o600)
        listener.listen(8)
        listener.setblocking(False)
        self._acceptor = asyncio.create_task(self._accept(listener))

    async def stop(self) -> None:
        """Closes the socket and every connection."""
        tasks = [*self._peers, *([self._acceptor] if self._acceptor else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def expect(self, session_id: str) -> bytes:
        """A fresh token that stands for the session, good for one connection."""
        token = secrets.token_bytes(TOKEN_BYTES)
        self._expected[token] = session_id
        return token

    def forget(self, token: bytes) -> None:
        """The session ended.

        A token that was never used means that nobody got the descriptor: nobody can be writing.
        """
        session_id = self._expected.pop(token, None)
        if session_id is not None:
            self._on_writer_gone(session_id)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    connection, _ = await loop.sock_accept(listener)
                except OSError as error:
                    # Out of descriptors, say: the next manager may have more luck.
                    log.warning("cannot accept the LoRA manager: %s", error)
                    await asyncio.sleep(1.0)
                    continue
                task = asyncio.create_task(self._serve(connection))
                self._peers.add(task)
                task.add_done_callback(self._peers.discard)

    async def _serve(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with connection:
            connection.setblocking(False)
            credentials = connection.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i")
            )
            pid, uid, _ = struct.unpack("3i", credentials)
            if uid != os.geteuid():
                log.warning("refused the segment to process %d of user %d", pid, uid)
                return
            try:
                token = await asyncio.wait_for(
                    loop.sock_recv(connection, TOKEN_BYTES), HANDSHAKE_SECONDS
                )
            except (TimeoutError, OSError):
                return
            session_id = self._expected.pop(token, None)
            if session_id is None:
                log.warning("refused the segment to process %d: wrong token", pid)
                return
            try:
                # One byte and one descriptor fit any socket buffer: this does not block.
                socket.send_fds(connection, [b"\0"], [self._descriptor()])
                await _until_closed(connection)
            except OSError as error:
                log.warning("the LoRA manager left before it had the segment: %s", error)
            finally:
                self._on_writer_gone(session_id)


async def _until_closed(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while await loop.sock_recv(connection, 1024):
            pass
