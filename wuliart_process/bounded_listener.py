"""A listening TCP socket that bounds its open connections and survives running out of descriptors.

asyncio and `socketserver` accept every connection that arrives. Out of descriptors, asyncio logs
one traceback per attempt (2,048 a second with uvicorn's backlog) and `socketserver` spins.
`BoundedListener` counts connections as it accepts them, before any TLS handshake, and closes those
beyond its limit at once.
"""

from __future__ import annotations

import errno
import logging
import os
import resource
import socket
import threading
import time
from contextlib import suppress
from typing import Any, Final
from weakref import WeakSet

log = logging.getLogger(__name__)

OUT_OF_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""`errno` values of an `accept` that failed for lack of descriptors or kernel memory."""

_CLOSED_PER_ACCEPT: Final = 128
"""Connections that one `accept` closes before it returns to the event loop."""

_WARN_SECONDS: Final = 60.0
"""Least time between two warnings."""


def raise_descriptor_limit(connections: int, *, reserved: int) -> int:
    """Raises the soft limit on descriptors as far as `connections` need and the hard limit allows.

    Args:
        connections: wanted at the same time; each counts twice, because a file may be open while
            its connection sends it.
        reserved: descriptors that the process needs for everything else.

    Returns:
        The number of connections to accept: `connections`, or fewer if the limit is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * connections + reserved
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if soft == resource.RLIM_INFINITY:
        return connections
    return max(1, min(connections, (soft - reserved) // 2))


class BoundedListener(socket.socket):
    """A non-blocking TCP socket, bound to an address, with at most `limit` connections open.

    Accepted sockets may be used and closed from any thread.

    Args:
        host: address or name to listen on.
        port: 0 for any free port.
        limit: open connections; further ones are closed as soon as they are accepted.

    Raises:
        OSError: the address cannot be bound.
    """

    def __init__(self, host: str, port: int, limit: int) -> None:
        family, _, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        super().__init__(family, socket.SOCK_STREAM)
        self._limit = limit
        self._connections: WeakSet[_Connection] = WeakSet()
        # Reentrant: a finalizer may close a connection while this thread holds it.
        self._lock = threading.RLock()
        self._spare = -1
        """A descriptor to give up when none is left, so that one connection can be closed."""
        self._closed_at_once = 0
        self._next_warning = 0.0
        try:
            self.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.setblocking(False)
            self.bind(address)
            self._spare = _open_spare()
        except BaseException:
            self.close()
            raise

    @property
    def port(self) -> int:
        """The port it is bound to."""
        return int(self.getsockname()[1])

    @property
    def open(self) -> int:
        """Number of accepted connections that are not closed yet."""
        with self._lock:
            return len(self._connections)

    def accept(self) -> tuple[socket.socket, Any]:
        """Accepts a connection as `socket.accept` does, closing those beyond the limit.

        Raises:
            BlockingIOError: no connection is waiting, or many were closed and it is time to return
                to the event loop.
            OSError: no descriptor is left, not even to close a connection.
        """
        for _ in range(_CLOSED_PER_ACCEPT):
            try:
                descriptor, address = self._accept()  # type: ignore[attr-defined]
            except OSError as error:
                if error.errno not in OUT_OF_DESCRIPTORS or not self._close_one():
                    raise
                continue
            if self.open < self._limit:
                connection = _Connection(self.family, self.type, self.proto, fileno=descriptor)
                connection.listener = self
                with self._lock:
                    self._connections.add(connection)
                return connection, address
            os.close(descriptor)
            self._warn("all %d connections are in use", self._limit)
        raise BlockingIOError

    def shut_down_older_than(self, seconds: float) -> None:
        """Shuts down each connection that was accepted more than `seconds` ago.

        Threads that read from such a connection or write to it continue with an end of file or an
        OSError, and close it.
        """
        oldest = time.monotonic() - seconds
        with self._lock:
            expired = [each for each in self._connections if each.accepted < oldest]
        for connection in expired:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Closes the listening socket; accepted connections stay open."""
        super().close()
        if self._spare >= 0:
            spare, self._spare = self._spare, -1
            os.close(spare)

    def _close_one(self) -> bool:
        """Accepts and closes one connection with the spare descriptor; False if there is none."""
        if self._spare < 0:
            # Another thread took the descriptor the last time, before it could be opened again.
            with suppress(OSError):
                self._spare = _open_spare()
            return self._spare >= 0
        spare, self._spare = self._spare, -1
        os.close(spare)
        try:
            descriptor, _ = self._accept()  # type: ignore[attr-defined]
            os.close(descriptor)
        finally:
            with suppress(OSError):
                self._spare = _open_spare()
        self._warn("no descriptor is left (ulimit -n) with %d connections open", self.open)
        return True

    def _warn(self, reason: str, count: int) -> None:
        self._closed_at_once += 1
        now = time.monotonic()
        if now >= self._next_warning:
            self._next_warning = now + _WARN_SECONDS
            log.warning(
                f"new connections are closed at once, %d so far: {reason}",
                self._closed_at_once,
                count,
            )


class _Connection(socket.socket):
    """An accepted connection, which its listener counts until it is closed."""

    listener: BoundedListener | None = None

    def __init__(self, family: int, type: int, proto: int, fileno: int) -> None:
        super().__init__(family, type, proto, fileno)
        self.accepted = time.monotonic()

    def close(self) -> None:
        """Closes the connection; its listener may accept another one."""
        super().close()
        listener, self.listener = self.listener, None
        if listener is not None:
            with listener._lock:
                listener._connections.discard(self)


def _open_spare() -> int:
    return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
