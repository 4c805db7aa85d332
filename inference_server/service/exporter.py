"""Metrics as Prometheus reads them, at `/metrics` of an address of its own.

Owns what is answered, and the way from the HTTP server's threads to the event loop, which is where
metrics change. Knows nothing of what they are.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Any, Final

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import make_wsgi_app
from prometheus_client.metrics_core import Metric

from inference_server.errors import ServerError
from inference_server.service.http_server import BoundedServer
from wuliart_process import allowed_hosts

log = logging.getLogger(__name__)

SCRAPE_SECONDS: Final = 5.0
"""An event loop that does not answer for so long is what the operator should hear of."""

PATH: Final = "/metrics"

HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
"""Of every answer: there is nothing in it for a browser."""


class ExporterError(ServerError):
    """The metrics cannot be served at the address; the message says why."""


def start_exporter(
    address: str, look: Callable[[], Iterable[Metric]], allowed_hosts: Collection[str] = ()
) -> Callable[[], None]:
    """Serves `/metrics` from threads of its own; to be called on the event loop.

    Args:
        address: HOST:PORT; an IPv6 host in brackets.
        look: returns every metric there is; called on the event loop.
        allowed_hosts: names by which clients may address it, besides `localhost`, literal addresses
            and HOST itself.

    Returns:
        What stops it. It may take a second: call it off the event loop.

    Raises:
        ExporterError: the address is none, is taken, or is not this machine's.
    """
    host, port = _parsed(address)
    registry = CollectorRegistry()
    registry.register(_Collector(look, asyncio.get_running_loop()))
    app = _Application(make_wsgi_app(registry), {host, *allowed_hosts})
    try:
        server = BoundedServer(host, port, app)
    except OSError as error:
        raise ExporterError(
            f"cannot serve metrics on {address}: {error.strerror}; name another with --metrics"
        ) from None
    server.start()
    return server.stop


class _Application:
    """WSGI: the metrics, for the hosts and at the path that they are at."""

    def __init__(self, metrics: Callable[..., list[bytes]], names: Collection[str]) -> None:
        self._metrics = metrics
        self._names = names

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """Answers one request."""

        def start(status: str, headers: list[tuple[str, str]]) -> Any:
            return start_response(status, [*headers, *HEADERS])

        if not allowed_hosts.allowed(environ.get("HTTP_HOST", ""), self._names):
            return _refused(
                start,
                "421 Misdirected Request",
                "this Host is not one of the server's; add it with --allowed-host",
            )
        if environ["PATH_INFO"] != PATH:
            return _refused(start, "404 Not Found", f"metrics are at {PATH}")
        try:
            return self._metrics(environ, start)
        except TimeoutError:
            log.error("no metrics: the event loop has not answered for %.0f s", SCRAPE_SECONDS)
        except Exception:
            log.exception("no metrics")
        return _refused(start, "500 Internal Server Error", "the server's log has more")


def _refused(start_response: Callable[..., Any], status: str, why: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{why}\n".encode()]


def _parsed(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ExporterError(f"--metrics {address!r} is no address; write HOST:PORT")
    return host, int(port)


class _Collector:
    """What `prometheus_client` asks at each scrape, from a thread of the HTTP server."""

    def __init__(
        self, look: Callable[[], Iterable[Metric]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._look = look
        self._loop = loop

    def collect(self) -> list[Metric]:
        """One consistent look at everything."""

        async def now() -> list[Metric]:
            return list(self._look())

        return asyncio.run_coroutine_threadsafe(now(), self._loop).result(SCRAPE_SECONDS)
