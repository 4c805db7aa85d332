"""The page's listening socket: as many connections as the process has descriptors for, no more.

asyncio accepts whatever comes and, out of descriptors, logs one traceback per attempt (2,048 a
second with uvicorn's backlog). Here connections are counted as they are accepted, TLS handshakes
included, and one too many is closed at once.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import time
from typing import Any, Final

log = logging.getLogger(__name__)

MOST_CONNECTIONS: Final = 4096
"""However many descriptors there are. An open page holds three or four connections."""

_RESERVED: Final = 96
"""Descriptors for everything but connections: files, the channel to the server, Python's own."""

_AT_ONCE: Final = 128
"""Connections that are closed before the event loop has its turn."""

_WARN_SECONDS: Final = 60.0
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


def raise_descriptor_limit() -> int:
    """Raises the soft limit on descriptors as far as needed and allowed.

    Returns:
        How many connections to accept at most.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MOST_CONNECTIONS + _RESERVED
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return MOST_CONNECTIONS
    # Two each: a file of the page is open while it is sent.
    return max(1, min(MOST_CONNECTIONS, (soft - _RESERVED) // 2))


class _Connection(socket.socket):
    """An accepted connection, which its listener counts until it is closed."""

    listener: BoundedListener | None = None

    def close(self) -> None:
        """Closes it and makes room for another."""
        super().close()
        listener, self.listener = self.listener, None
        if listener is not None:
            listener.open -= 1


class BoundedListener(socket.socket):
    """A listening TCP socket with at most `most` connections open; those beyond are closed at once.

    Args:
        host: address or name to listen on.
        port: 0 for any free one.
        most: connections.

    Raises:
        OSError: the address cannot be listened on.
    """

    def __init__(self, host: str, port: int, most: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__(family, socket.SOCK_STREAM)
        self.open = 0
        self._most = most
        self._spare = -1
        self._closed_at_once = 0
        self._warned = -_WARN_SECONDS
        self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.bind(address)
        self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return int(self.getsockname()[1])

    def accept(self) -> tuple[socket.socket, Any]:
        """As `socket.accept`; a connection too many is closed and the next one taken.

        Raises:
            BlockingIOError: no connection waits, or very many do.
        """
        for _ in range(_AT_ONCE):
            try:
                descriptor, address = self._accept()  # type: ignore[attr-defined]
            except OSError as error:
                if error.errno not in _NO_DESCRIPTORS or not self._drop_one():
                    raise
                continue
            if self.open < self._most:
                connection = _Connection(self.family, self.type, self.proto, fileno=descriptor)
                connection.listener = self
                self.open += 1
                return connection, address
            os.close(descriptor)
            self._warn("all %d connections are in use", self._most)
        raise BlockingIOError  # the event loop has other things to do, too

    def close(self) -> None:
        """Closes the socket; open connections stay."""
        super().close()
        if self._spare >= 0:
            os.close(self._spare)
            self._spare = -1

    def _drop_one(self) -> bool:
        """Closes one waiting connection, with the descriptor that is kept for it."""
        if self._spare < 0:
            return False
        os.close(self._spare)
        try:
            descriptor, _ = self._accept()  # type: ignore[attr-defined]
            os.close(descriptor)
        finally:
            self._spare = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._warn("no descriptor is left (ulimit -n) with %d connections open", self.open)
        return True

    def _warn(self, why: str, count: int) -> None:
        self._closed_at_once += 1
        now = time.monotonic()
        if now - self._warned >= _WARN_SECONDS:
            self._warned = now
            log.warning(
                f"new connections are closed at once, %d so far: {why}", self._closed_at_once, count
            )
