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
from pathlib import Path
from typing import Final

import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from wuliart_web.listening import BoundedListener, raise_descriptor_limit

log = logging.getLogger(__name__)

HEAD_SECONDS: Final = 15.0
"""Time for a request's head to arrive, from its connection or from its first byte."""

_BACKLOG: Final = 128
_CERTIFICATE_SECONDS: Final = 5.0
"""Between two looks at the certificate's files."""


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP/1.1 protocol, which closes a connection that does not ask for anything."""

    _head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins to wait for the first request."""
        super().connection_made(transport)
        self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def data_received(self, data: bytes) -> None:
        """Takes bytes; the rest of a head may take as long as a whole one."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_timer()
        elif self._head_timer is None and not self.transport.is_closing():
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._give_up)

    def on_response_complete(self) -> None:
        """Waits for the next request for as long as uvicorn's keep-alive says."""
        self._stop_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends waiting."""
        self._stop_timer()
        super().connection_lost(exc)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _give_up(self) -> None:
        self._head_timer = None
        self.transport.abort()


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
    """Serves `app` until the process is told to end.

    Raises:
        OSError: the address cannot be listened on, or a certificate cannot be read.
    """
    config = configuration(app, cert, key)
    config.load()
    renewing = None
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
