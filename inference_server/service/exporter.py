"""Serves metrics to Prometheus over HTTP, at `/metrics` of an address of its own.

Requests are served by threads; metrics are collected on the event loop, where they change.
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
"""Time after which an event loop that does not respond is reported as an error."""

PATH: Final = "/metrics"

HEADERS: Final = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
    ("Cache-Control", "no-store"),
)
"""Headers of every response; none of them is meant for a browser."""


class ExporterError(ServerError):
    """The metrics cannot be served at the address; the message says why."""


def start_exporter(
    address: str, collect: Callable[[], Iterable[Metric]], allowed_hosts: Collection[str] = ()
) -> Callable[[], None]:
    """Starts to serve `/metrics` from threads; to be called on the event loop.

    Args:
        address: HOST:PORT; an IPv6 host in brackets.
        collect: returns all metrics; called on the event loop.
        allowed_hosts: host names that requests may use, besides `localhost`, literal addresses and
            HOST itself.

    Returns:
        A function that stops the exporter. It may take a second: call it off the event loop.

    Raises:
        ExporterError: the address is malformed, taken, or not this machine's.
    """
    host, port = _parsed(address)
    registry = CollectorRegistry()
    registry.register(_Collector(collect, asyncio.get_running_loop()))
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
    """WSGI application that checks a request's Host and path before it returns the metrics."""

    def __init__(self, metrics: Callable[..., list[bytes]], names: Collection[str]) -> None:
        self._metrics = metrics
        self._names = names

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
        """Handles one request."""

        def start(status: str, headers: list[tuple[str, str]]) -> Any:
            return start_response(status, [*headers, *HEADERS])

        if not allowed_hosts.allowed(environ.get("HTTP_HOST", ""), self._names):
            return _error(
                start,
                "421 Misdirected Request",
                "this Host is not one of the server's; add it with --allowed-host",
            )
        if environ["PATH_INFO"] != PATH:
            return _error(start, "404 Not Found", f"metrics are at {PATH}")
        try:
            return self._metrics(environ, start)
        except TimeoutError:
            log.error("no metrics: the event loop did not respond for %.0f s", SCRAPE_SECONDS)
        except Exception:
            log.exception("no metrics")
        return _error(start, "500 Internal Server Error", "the server's log has the details")


def _error(start_response: Callable[..., Any], status: str, why: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{why}\n".encode()]


def _parsed(address: str) -> tuple[str, int]:
    host, colon, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not (colon and host and port.isascii() and port.isdecimal() and int(port) < 1 << 16):
        raise ExporterError(f"--metrics {address!r} is not an address; write HOST:PORT")
    return host, int(port)


class _Collector:
    """Collects metrics on the event loop, for `prometheus_client` on a thread of the server."""

    def __init__(
        self, collect: Callable[[], Iterable[Metric]], loop: asyncio.AbstractEventLoop
    ) -> None:
        self._collect = collect
        self._loop = loop

    def collect(self) -> list[Metric]:
        """Returns all metrics, all of one moment."""

        async def on_loop() -> list[Metric]:
            return list(self._collect())

        return asyncio.run_coroutine_threadsafe(on_loop(), self._loop).result(SCRAPE_SECONDS)
