"""Runs the page's HTTP server, uvicorn, with what uvicorn lacks.

That is a limit on connections (`wuliart_process.bounded_listener`), time limits for requests to
arrive and for responses to be read, and certificates that are renewed without a restart.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from wuliart_process.bounded_listener import BoundedListener, raise_descriptor_limit
from wuliart_process.certificates import READ_SECONDS, WatchedCertificate
from wuliart_web.guard.head_gate import HeadGate
from wuliart_web.guard.response_headers import DEFAULTS

log = logging.getLogger(__name__)

MAX_CONNECTIONS: Final = 4096
"""At most, however many descriptors there are; an open page holds three or four connections."""

_RESERVED_DESCRIPTORS: Final = 96
"""For everything but connections: files, the channel to the server, Python's own."""

HEAD_SECONDS: Final = 15.0
"""Time for a request's head to arrive, from the connection's start or the head's first byte."""

_UNREAD_SECONDS: Final = 15.0
"""Interval between two looks at unsent bytes; a response that has not moved is not being read."""

_TLS_SECONDS: Final = 10.0
"""Time for a TLS handshake, and for closing a TLS connection."""

_BACKLOG: Final = 128


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which also closes connections that hold up others.

    Closes a connection that sends no request in time, that sends what no client of the page sends
    (`head_gate`), or that does not read its response.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _unread_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Starts the timers."""
        super().connection_made(transport)
        self._gate = HeadGate()
        self._unsent: list[int] = []
        """Bytes that were waiting to be sent at the last two looks."""
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        self._unread_timer = self.loop.call_later(_UNREAD_SECONDS, self._check_unsent)

    def data_received(self, data: bytes) -> None:
        """Parses bytes that the gate admits; the rest of a head gets as long as a whole one."""
        passed = self._gate.take(data, busy=self._busy)
        if passed is None:
            self._reject()
            return
        if passed:
            super().data_received(passed)
        if self._busy:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Waits for the next request for uvicorn's keep-alive time."""
        self._stop_head_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stops the timers."""
        self._stop_head_timer()
        if self._unread_timer is not None:
            self._unread_timer.cancel()
        super().connection_lost(exc)

    @property
    def _busy(self) -> bool:
        """True while a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _reject(self) -> None:
        """Answers a request that the gate rejected, and closes the connection."""
        if not self._gate.rejected or self._busy:
            self.transport.abort()
            return
        status = HTTPStatus(self._gate.rejected)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "content-length: 0"]
        lines += [f"{name}: {value}" for name, value in DEFAULTS.items()]
        self.transport.write("\r\n".join([*lines, "connection: close", "", ""]).encode())
        self.transport.close()

    def _check_unsent(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._unsent = [*self._unsent[-1:], unsent]
        if unsent and self._unsent == [unsent, unsent]:
            self.transport.abort()
            return
        self._unread_timer = self.loop.call_later(_UNREAD_SECONDS, self._check_unsent)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def configuration(app: ASGIApp) -> uvicorn.Config:
    """Builds uvicorn's settings for `app`, without TLS."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        loop="asyncio",
        backlog=_BACKLOG,
        log_config=None,
        server_header=False,
        # An open page keeps a stream open.
        timeout_graceful_shutdown=2,
    )


async def serve(
    app: ASGIApp, host: str, port: int, certificate: WatchedCertificate | None = None
) -> None:
    """Serves `app` until the process gets SIGTERM or SIGINT.

    Args:
        app: the application.
        host: address to listen on.
        port: 0 for any free port.
        certificate: turns TLS on.

    Raises:
        OSError: the address cannot be listened on.
    """
    config = configuration(app)
    config.load()
    renewing = None
    if certificate is not None:
        config.ssl = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.current.load_into(config.ssl)
        renewing = asyncio.create_task(_renew(config.ssl, certificate))
        # uvicorn has no setting for these limits; asyncio's defaults are 60 and 30 s.
        loop = asyncio.get_running_loop()
        limits = {"ssl_handshake_timeout": _TLS_SECONDS, "ssl_shutdown_timeout": _TLS_SECONDS}
        vars(loop)["create_server"] = partial(loop.create_server, **limits)
    most = raise_descriptor_limit(MAX_CONNECTIONS, reserved=_RESERVED_DESCRIPTORS)
    with BoundedListener(host, port, most) as listener:
        log.info("page on %s://%s:%d", "https" if config.ssl else "http", host, listener.port)
        try:
            await uvicorn.Server(config).serve(sockets=[listener])
        finally:
            if renewing is not None:
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing


async def _renew(context: ssl.SSLContext, certificate: WatchedCertificate) -> None:
    """Gives new connections the certificate in the files as it changes."""
    while True:
        await asyncio.sleep(READ_SECONDS)
        if renewed := certificate.renewed():
            renewed.load_into(context)
