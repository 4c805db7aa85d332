"""An HTTP proxy that refuses and records every request."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


@dataclass
class Proxy:
    """The port, and the first line of each request."""

    port: int
    requests: list[str] = field(default_factory=list)

    @property
    def url(self) -> str:
        """URL with a password, which no message may reveal."""
        return f"http://user:secret@127.0.0.1:{self.port}"


@contextmanager
def closed_proxy() -> Iterator[Proxy]:
    """Runs a proxy that answers every request with 503."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(listener.getsockname()[1])

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, suppress(OSError):
                    proxy.requests.append(connection.recv(4096).decode().partition("\r\n")[0])
                    connection.sendall(b"HTTP/1.1 503 Service Unavailable\r\n\r\n")

        threading.Thread(target=serve, daemon=True).start()
        yield proxy
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # wakes the thread
