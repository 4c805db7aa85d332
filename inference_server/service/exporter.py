"""Figures as Prometheus reads them, at `/metrics` of an address of its own.

Owns the HTTP server and the way from its thread to the event loop, which is where figures change.
Knows nothing of what they are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.metrics_core import Metric

from inference_server.errors import ServerError

SCRAPE_SECONDS: Final = 5.0
"""An event loop that does not answer for so long is what the operator should hear of."""


class ExporterError(ServerError):
    """The metrics cannot be served at the address; the message says why."""


def start_exporter(address: str, look: Callable[[], Iterable[Metric]]) -> Callable[[], None]:
    """Serves `/metrics` from a thread of its own; to be called on the event loop.

    Args:
        address: HOST:PORT; an IPv6 host in brackets.
        look: every metric there is; called on the event loop.

    Returns:
        What stops it. It may take half a second: call it off the event loop.

    Raises:
        ExporterError: the address is none, is taken, or is not this machine's.
    """
    host, port = _parsed(address)
    registry = CollectorRegistry()
    registry.register(_Collector(look, asyncio.get_running_loop()))
    try:
        server, thread = start_http_server(port, host, registry)
    except OSError as error:
        raise ExporterError(
            f"cannot serve metrics on {address}: {error.strerror}; name another with --metrics"
        ) from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop


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
