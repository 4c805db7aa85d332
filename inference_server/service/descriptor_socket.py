"""Authenticates the LoRA manager, sends it the segment's file descriptor, and notices its death.

gRPC transmits neither the peer's user nor descriptors, so a second Unix socket does. A process of
the server's own user that connects receives a token, which `Attach` requires. The connection stays
open for as long as the manager may write: the kernel closes it only after it has torn down the
mappings of the dead process.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from wuliart_process.peer import Peer
from wuliart_process.sockets import TOKEN_BYTES

log = logging.getLogger(__name__)

ATTACH_SECONDS = 5.0
"""A connection whose token is not used for this long is closed."""

ACCEPT_RETRY_SECONDS = 1.0


class WriterGoneError(Exception):
    """The connection that a token was sent over has ended, or there never was one."""


@dataclass(eq=False)
class _Connection:
    """A connection from a process of the server's user."""

    socket: socket.socket
    peer: Peer
    limit: asyncio.Timeout
    """Closes the connection unless a session begins before it expires."""
    session_id: str = ""
    """The session that the connection's token opened; empty until then."""


class DescriptorSocket:
    """Listens for LoRA managers.

    Args:
        path: of the socket, in a directory that only the owner can enter.
        descriptor: returns the descriptor to send.
        on_writer_gone: called with the session's id once its process can no longer write.
    """

    def __init__(
        self, path: Path, descriptor: Callable[[], int], on_writer_gone: Callable[[str], None]
    ) -> None:
        self.path = path
        self._descriptor = descriptor
        self._on_writer_gone = on_writer_gone
        self._waiting: dict[bytes, _Connection] = {}
        """By token, the connections whose token has not been used."""
        self._serving: set[asyncio.Task[None]] = set()
        self._acceptor: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Binds and listens; to be called on the event loop.

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
        tasks = [*self._serving, *([self._acceptor] if self._acceptor else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.path.unlink(missing_ok=True)

    def peer(self, token: bytes) -> Peer:
        """Returns the process that the token was sent to.

        Raises:
            WriterGoneError: the token was used or never sent, or its connection has ended.
        """
        try:
            return self._waiting[token].peer
        except KeyError:
            raise WriterGoneError from None

    def hand_over(self, token: bytes, session_id: str) -> None:
        """Sends the segment's descriptor over the token's connection, and uses up the token.

        From then on, the end of the connection is the end of the session's writer.

        Raises:
            WriterGoneError: as `peer`; no process can write.
        """
        connection = self._waiting.pop(token, None)
        if connection is None or connection.limit.expired():
            raise WriterGoneError
        connection.limit.reschedule(None)
        try:
            # One byte and one descriptor fit any socket buffer: this does not block.
            socket.send_fds(connection.socket, [b"\0"], [self._descriptor()])
        except OSError:
            raise WriterGoneError from None
        connection.session_id = session_id

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with listener:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listener)
                except OSError as error:
                    # For example, no descriptor is left. Connections wait in the backlog.
                    log.warning("cannot accept a LoRA manager's connection: %s", error.strerror)
                    await asyncio.sleep(ACCEPT_RETRY_SECONDS)
                    continue
                task = asyncio.create_task(self._serve(accepted))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)

    async def _serve(self, accepted: socket.socket) -> None:
        with accepted:
            peer = Peer.of(accepted)
            if not peer.is_this_user:
                log.warning("refused process %d of user %d as LoRA manager", peer.pid, peer.uid)
                return
            accepted.setblocking(False)
            token = secrets.token_bytes(TOKEN_BYTES)
            connection = None
            try:
                async with asyncio.timeout(ATTACH_SECONDS) as limit:
                    connection = self._waiting[token] = _Connection(accepted, peer, limit)
                    accepted.send(token)
                    await _until_closed(accepted)
            except (OSError, TimeoutError):
                pass  # the process left, or never attached
            finally:
                self._waiting.pop(token, None)
                if connection is not None and connection.session_id:
                    self._on_writer_gone(connection.session_id)


async def _until_closed(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    with suppress(OSError):
        while await loop.sock_recv(connection, 1024):
            pass
