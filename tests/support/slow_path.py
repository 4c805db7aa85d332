"""A TCP relay that delays everything by a fixed time, without limiting bandwidth."""

from __future__ import annotations

import queue
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

Piece = tuple[float, bytes]


@contextmanager
def slow_path(target: str, delay: float = 0.0) -> Iterator[int]:
    """Yields the port of a relay to `target`, "host:port" or "unix:path".

    Data arrive `delay` seconds after they were sent, in both directions. Opening a connection takes
    a round trip more, as on a real path.
    """
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept, args=(listener, target, delay), daemon=True).start()
        yield listener.getsockname()[1]
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread


def _accept(listener: socket.socket, target: str, delay: float) -> None:
    while True:
        try:
            near, _ = listener.accept()
            far = _connect(target)
        except OSError:
            return
        _pump(near, far, delay, first=3 * delay)
        _pump(far, near, delay, first=2 * delay)


def _connect(target: str) -> socket.socket:
    if target.startswith("unix:"):
        far = socket.socket(socket.AF_UNIX)
        far.connect(target.removeprefix("unix:"))
        return far
    host, _, port = target.rpartition(":")
    return socket.create_connection((host, int(port)))


def _pump(source: socket.socket, sink: socket.socket, delay: float, first: float) -> None:
    """Forwards until either side closes; nothing arrives earlier than `first` from now."""
    opened = time.monotonic() + first
    pieces: queue.SimpleQueue[Piece] = queue.SimpleQueue()

    def read() -> None:
        data = b"?"
        while data:
            try:
                data = source.recv(1 << 16)
            except OSError:
                data = b""
            pieces.put((max(opened, time.monotonic() + delay), data))

    def write() -> None:
        with suppress(OSError):
            while True:
                due, data = pieces.get()
                time.sleep(max(0.0, due - time.monotonic()))
                if not data:
                    sink.shutdown(socket.SHUT_WR)
                    return
                sink.sendall(data)

    for end in (read, write):
        threading.Thread(target=end, daemon=True).start()
