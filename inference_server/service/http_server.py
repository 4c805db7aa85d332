"""An HTTP server for untrusted clients: few connections, each for a short time.

Serves a WSGI application from one thread per connection.
"""

from __future__ import annotations

import io
import logging
import socket
import socketserver
import threading
import time
from collections.abc import Callable
from typing import Any, Final
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from wuliart_process.bounded_listener import OUT_OF_DESCRIPTORS, BoundedListener

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 16
"""Open connections, each with a thread; further ones are closed without a response."""

SECONDS: Final = 10.0
"""Lifetime of a connection, which serves one request."""

_RETRY_SECONDS: Final = 1.0


class BoundedServer(socketserver.ThreadingMixIn, WSGIServer):
    """Serves an application between `start` and `stop`.

    Args:
        host: address or name to listen on.
        port: 0 for any free port.
        app: called once per request.

    Raises:
        OSError: the server cannot listen on the address.
    """

    daemon_threads = True

    def __init__(self, host: str, port: int, app: Callable[..., Any]) -> None:
        self._listener = BoundedListener(host, port, MAX_CONNECTIONS)
        super().__init__((host, port), _Handler, bind_and_activate=False)
        self.socket.close()
        self.socket = self._listener
        self.server_address = self._listener.getsockname()
        # Not the machine's name, which wsgiref would ask the resolver for and may wait for.
        self.server_name, self.server_port = "", self._listener.port
        self.setup_environ()
        self.set_app(app)
        self._listener.listen(MAX_CONNECTIONS)
        self._thread = threading.Thread(target=self.serve_forever, name="metrics", daemon=True)

    def start(self) -> None:
        """Begins to serve."""
        self._thread.start()

    def stop(self) -> None:
        """Stops serving and closes the listening socket; takes up to a second."""
        self.shutdown()
        self.server_close()
        self._thread.join()

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accepts a connection; retries once a second while no descriptor is left."""
        try:
            return super().get_request()
        except OSError as error:
            if error.errno in OUT_OF_DESCRIPTORS:
                log.warning("a connection has to wait: %s", error.strerror)
                time.sleep(_RETRY_SECONDS)
            raise

    def service_actions(self) -> None:
        """Ends connections that are too old; called at least twice a second."""
        self._listener.shut_down_older_than(SECONDS)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Logs a connection that broke, at the level DEBUG: it is not the server's fault."""
        log.debug("a connection broke", exc_info=True)


class _Handler(WSGIRequestHandler):
    timeout = SECONDS

    def log_message(self, format: str, *args: Any) -> None:
        """Does not log requests."""

    def get_stderr(self) -> Any:
        # wsgiref writes a traceback there for a client that does not read.
        return io.StringIO()
