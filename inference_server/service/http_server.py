"""A small HTTP server that strangers cannot hold up: few connections, each for a short while.

Owns sockets, threads and their limits. Knows nothing of what is served; the application is WSGI.
"""

from __future__ import annotations

import errno
import io
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
"""At once; each has a thread. One more is closed without an answer."""

SECONDS: Final = 10.0
"""Of a connection's life, which is one request and its response."""

_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_RETRY_SECONDS: Final = 1.0


class BoundedServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves an application from threads of its own between `start` and `stop`.

    Args:
        host: to listen on, an address or a name.
        port: 0 for any free one.
        app: called once for each request.

    Raises:
        OSError: the address cannot be listened on.
    """

    daemon_threads = True
    # Connections that wait in the kernel.
    request_queue_size = 16

    def __init__(self, host: str, port: int, app: Callable[..., Any]) -> None:
        self._deadlines: dict[Any, float] = {}
        """When each open connection ends."""
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        self.address_family, _, _, _, address = found[0]
        super().__init__(address, _Handler)  # type: ignore[arg-type]
        self.set_app(app)
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it and gives the address back; takes up to a second."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def server_bind(self) -> None:
        """Binds without asking for the machine's name, which HTTP's own does and may wait for."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = "", int(self.server_address[1])
        self.setup_environ()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection; without descriptors not more often than once a second."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in _NO_DESCRIPTORS:
                log.warning("a connection has to wait: %s", error.strerror)
                time.sleep(_RETRY_SECONDS)
            raise

    def process_request(self, request: Any, client_address: Any) -> None:
        """Gives a connection its thread, unless too many have one."""
        if len(self._deadlines) >= MAX_CONNECTIONS:
            log.warning("%d connections are open already, one more is closed", MAX_CONNECTIONS)
            self.shutdown_request(request)
            return
        self._deadlines[request] = time.monotonic() + SECONDS
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        """Closes a connection."""
        self._deadlines.pop(request, None)
        super().shutdown_request(request)

    def service_actions(self) -> None:
        """Ends connections whose time is over; called at least twice a second."""
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if deadline <= now:
                with suppress(OSError):
                    request.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that breaks off is no fault of the server."""
        log.debug("a connection broke", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Requests are not logged."""

    def get_stderr(self) -> Any:
        # wsgiref writes a traceback there for a client that does not read.
        return io.StringIO()
