"""How the page's HTTP server runs: its limits, its timeouts, its certificate.

The server is uvicorn; what it lacks is added here: a bound on connections (`listening`), a time for
a request's head to arrive, and certificates that are read again when they are renewed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from contextlib import suppress
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from wuliart_web.answer_headers import ALWAYS
from wuliart_web.head_gate import HeadGate
from wuliart_web.listening import BoundedListener, raise_descriptor_limit

log = logging.getLogger(__name__)

HEAD_SECONDS: Final = 15.0
"""Time for a request's head to arrive, from its connection or from its first byte."""

_WRITE_LOOK_SECONDS: Final = 15.0
"""Between two looks at an answer; one that has not moved between them is not being read."""

_TLS_SECONDS: Final = 10.0
"""Time for a TLS handshake, and for the end of a connection."""

_BACKLOG: Final = 128
_CERTIFICATE_SECONDS: Final = 2.0
"""Between two looks at the certificate's files."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which ends a connection that holds others up.

    One that asks for nothing, that sends what no client of this page does (see `head_gate`), or
    that does not read its answer.
    """

    _head_timer: asyncio.TimerHandle | None = None
    _write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._gate = HeadGate()
        self._unsent: list[int] = []
        """Bytes that waited to be sent at the latest looks."""
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)
        self._write_timer = self.loop.call_later(_WRITE_LOOK_SECONDS, self._look_at_writes)

    def data_received(self, data: bytes) -> None:
        """Takes bytes; the rest of a head may take as long as a whole one."""
        passed = self._gate.take(data, busy=self._busy)
        if passed is None:
            self._refuse()
            return
        if passed:
            super().data_received(passed)
        if self._busy:
            self._stop_head_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self.transport.abort)

    def on_response_complete(self) -> None:
        """Waits for the next request for as long as uvicorn's keep-alive says."""
        self._stop_head_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self._stop_head_timer()
        if self._write_timer is not None:
            self._write_timer.cancel()
        super().connection_lost(exc)

    @property
    def _busy(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _refuse(self) -> None:
        """Answers what the gate refused, and ends the connection."""
        if not self._gate.refused or self._busy:
            self.transport.abort()
            return
        status = HTTPStatus(self._gate.refused)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", "content-length: 0"]
        lines += [f"{name}: {value}" for name, value in ALWAYS.items()]
        self.transport.write("\r\n".join([*lines, "connection: close", "", ""]).encode())
        self.transport.close()

    def _look_at_writes(self) -> None:
        unsent = self.transport.get_write_buffer_size()
        self._unsent = [*self._unsent[-1:], unsent]
        if unsent and self._unsent == [unsent, unsent]:
            self.transport.abort()
            return
        self._write_timer = self.loop.call_later(_WRITE_LOOK_SECONDS, self._look_at_writes)

    def _stop_head_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None


def configuration(
    app: ASGIApp, cert: Path | None = None, key: Path | None = None
) -> uvicorn.Config:
    """Builds uvicorn's settings, with TLS where `cert` and `key` (PEM files) are given."""
    return uvicorn.Config(
        app,
        http=TimedProtocol,
        ws="none",
        loop="asyncio",
        backlog=_BACKLOG,
        ssl_certfile=cert,
        ssl_keyfile=key,
        log_config=None,
        server_header=False,
        # A page keeps a stream open for as long as it is looked at.
        timeout_graceful_shutdown=2,
    )


async def serve(
    app: ASGIApp, host: str, port: int, cert: Path | None = None, key: Path | None = None
) -> None:
    """Serves `app` until the process gets SIGTERM or SIGINT.

    Raises:
        OSError: the address cannot be listened on, or a certificate cannot be read.
    """
    config = configuration(app, cert, key)
    config.load()
    renewing = None
    loop = asyncio.get_running_loop()
    if config.ssl is not None:
        # uvicorn has no setting for it; asyncio's own are a minute and half a minute.
        limits = {"ssl_handshake_timeout": _TLS_SECONDS, "ssl_shutdown_timeout": _TLS_SECONDS}
        vars(loop)["create_server"] = partial(loop.create_server, **limits)
    if config.ssl is not None and cert is not None and key is not None:
        renewing = asyncio.create_task(_renew(config.ssl, cert, key))
    with BoundedListener(host, port, raise_descriptor_limit()) as listener:
        log.info("page on %s://%s:%d", "https" if config.ssl else "http", host, listener.port)
        try:
            await uvicorn.Server(config).serve(sockets=[listener])
        finally:
            if renewing is not None:
                renewing.cancel()
                with suppress(asyncio.CancelledError):
                    await renewing


async def _renew(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """Gives new connections the certificate that the files hold now, whenever they change."""
    known = _stamps(cert, key)
    while True:
        await asyncio.sleep(_CERTIFICATE_SECONDS)
        stamps = _stamps(cert, key)
        if stamps == known:
            continue
        known = stamps
        try:
            # Tried apart: a certificate without its key would leave the live context useless.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
            context.load_cert_chain(cert, key)
        except (OSError, ssl.SSLError) as error:
            log.error("%s and %s are not used, the certificate of before is: %s", cert, key, error)
        else:
            log.info("%s is read again", cert)


def _stamps(*paths: Path) -> list[tuple[int, ...] | None]:
    """What changes when one of the files does; None for one that is not there."""
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            status = os.stat(path)  # noqa: PTH116
            found.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
        except OSError:
            found.append(None)
    return found
