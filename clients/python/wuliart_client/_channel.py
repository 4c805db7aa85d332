"""Target, credentials and channel options of both clients."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc.experimental import ChannelOptions

from wuliart_client._proxy import NO_PROXY_OPTION, is_direct
from wuliart_contract.limits import MAX_RESPONSE_BYTES

TARGET_VARIABLE: Final = "WULIART_TARGET"
DEFAULT_TARGET: Final = "127.0.0.1:50051"
"""An address, because the name localhost has two and another server may listen on the other."""

SILENCE_SECONDS: Final = 10
"""Silence during a call after which the client sends a ping."""

ANSWER_SECONDS: Final = 10
"""For the answer to that ping, which gRPC itself sends however busy the server is."""

CONNECT_SECONDS: Final = 10
"""For one attempt at a connection, from its first packet to the server's HTTP/2 settings."""

UNARY_SECONDS: Final = 30.0
"""Default timeout of unary calls, which the server answers at once."""


class Countdown:
    """A timeout in seconds that several calls share; None for no limit."""

    def __init__(self, timeout: float | None) -> None:
        self._ends = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Returns the timeout of the next call; 0 makes it fail with DEADLINE_EXCEEDED."""
        return None if self._ends is None else max(0.0, self._ends - time.monotonic())


_SERVICE_CONFIG: Final = {
    # With several addresses (`ipv4:a:1,b:1`, or a name that has many) calls go to each in turn.
    "loadBalancingConfig": [{"round_robin": {}}],
    "methodConfig": [
        {
            "name": [{}],  # every method
            "retryPolicy": {
                # A call is committed at its first response: only one that never began is retried.
                "maxAttempts": 4,
                "initialBackoff": "0.2s",
                "maxBackoff": "2s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": ["UNAVAILABLE"],
            },
        }
    ],
}

# The threads that gRPC otherwise gives each stream of responses lose, together with the retries
# above, a call whose server is killed: it ends not even at its deadline (grpcio 1.85, within ten
# kills; none of this kind in forty). `grpc.aio` is not concerned and ignores the option.
_READ_BY_CALLER: Final = (ChannelOptions.SingleThreadedUnaryStream, 1)

CHANNEL_OPTIONS: Final[tuple[tuple[str, int | str], ...]] = (
    ("grpc.max_receive_message_length", MAX_RESPONSE_BYTES),
    ("grpc.enable_retries", 1),
    _READ_BY_CALLER,
    ("grpc.service_config", json.dumps(_SERVICE_CONFIG)),
    # A restarted server is found at once.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
    # Despite its name how long an attempt may take; a slow network needs more than the backoff.
    ("grpc.min_reconnect_backoff_ms", CONNECT_SECONDS * 1_000),
    # A peer that vanished without closing (stopped process, cut path) ends the call.
    ("grpc.keepalive_time_ms", SILENCE_SECONDS * 1_000),
    ("grpc.keepalive_timeout_ms", ANSWER_SECONDS * 1_000),
    # gRPC's own default of 60 s would override the timeout above.
    ("grpc.http2.ping_timeout_ms", ANSWER_SECONDS * 1_000),
    ("grpc.http2.max_pings_without_data", 0),
)


TOKEN_VARIABLE: Final = "WULIART_TOKEN"
TLS_CA_VARIABLE: Final = "WULIART_TLS_CA"


@dataclass(frozen=True, slots=True)
class TLS:
    """TLS settings.

    `ca` is a PEM file with the authority that signed its certificate, None for those the system
    trusts; `cert` and `key` are PEM files of the client's certificate, if the server requires one.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def credentials(self) -> grpc.ChannelCredentials:
        """For a channel; OSError if a file cannot be read."""
        ca, key, cert = (
            None if file is None else file.read_bytes() for file in (self.ca, self.key, self.cert)
        )
        return grpc.ssl_channel_credentials(ca, key, cert)


def resolve_tls(tls: TLS | None) -> TLS | None:
    """The given one, else with the authority in `$WULIART_TLS_CA`, else none."""
    ca = os.environ.get(TLS_CA_VARIABLE)
    return tls or (TLS(Path(ca)) if ca else None)


def authorization(token: str | None) -> tuple[tuple[str, str], ...]:
    """Metadata of every call: the given token, else `$WULIART_TOKEN`, else nothing."""
    token = token if token is not None else os.environ.get(TOKEN_VARIABLE)
    return (("authorization", f"Bearer {token}"),) if token else ()


def resolve_target(target: str | None) -> str:
    """The given target, else `$WULIART_TARGET`, else 127.0.0.1:50051; `unix:/path` works too."""
    return target or os.environ.get(TARGET_VARIABLE) or DEFAULT_TARGET


def channel_options(target: str) -> tuple[tuple[str, int | str], ...]:
    """Returns `CHANNEL_OPTIONS`, plus the option against proxies where none may be used."""
    return (*CHANNEL_OPTIONS, NO_PROXY_OPTION) if is_direct(target) else CHANNEL_OPTIONS
