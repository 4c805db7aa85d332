"""Turns a failed gRPC call into an exception, for both clients.

Reads the `google.rpc` status details and words the messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from wuliart_client import _exceptions as exceptions
from wuliart_client._channel import ANSWER_SECONDS, CONNECT_SECONDS, SILENCE_SECONDS
from wuliart_client._proxy import proxy_of
from wuliart_contract.status import DOMAIN, Reason

BY_REASON: Final[dict[Reason, type[exceptions.WuliArtError]]] = {
    Reason.INVALID_REQUEST: exceptions.InvalidRequest,
    Reason.ADAPTER_NOT_FOUND: exceptions.AdapterNotFound,
    Reason.ADAPTER_REFUSED: exceptions.AdapterRefused,
    Reason.QUEUE_FULL: exceptions.QueueFull,
    Reason.NO_FREE_SLOT: exceptions.NoFreeSlot,
    Reason.MANAGER_UNAVAILABLE: exceptions.Unavailable,
    Reason.UNAUTHENTICATED: exceptions.Unauthenticated,
    Reason.RATE_LIMITED: exceptions.RateLimited,
    Reason.STARTING: exceptions.Unavailable,
    Reason.DRAINING: exceptions.Unavailable,
    Reason.REPLICA_LOST: exceptions.Unavailable,
    Reason.NON_FINITE: exceptions.GenerationFailed,
    Reason.INTERNAL: exceptions.GenerationFailed,
    # Never meant for a public client:
    Reason.MANAGER_ALREADY_ATTACHED: exceptions.ProtocolError,
    Reason.SESSION_LOST: exceptions.ProtocolError,
    Reason.RESERVATION_LOST: exceptions.ProtocolError,
    Reason.CHECKSUM_MISMATCH: exceptions.ProtocolError,
}

BY_CODE: Final[dict[grpc.StatusCode, type[exceptions.WuliArtError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: exceptions.InvalidRequest,
    grpc.StatusCode.UNAUTHENTICATED: exceptions.Unauthenticated,
    grpc.StatusCode.UNAVAILABLE: exceptions.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: exceptions.DeadlineExceeded,
    grpc.StatusCode.CANCELLED: exceptions.Cancelled,
}
"""For a status without a reason of ours, which gRPC itself or a proxy made; the rest are
`ProtocolError`."""

_NO_CONNECTION: Final = (
    "timed out",
    "handshaker shutdown",
    "(Endpoint closing)",
    "DNS query cancelled",
)
"""Parts of gRPC's texts for a connection attempt that timed out, one for each phase."""

_DETAILS_KEY: Final = "grpc-status-details-bin"


@dataclass(frozen=True, slots=True)
class CallContext:
    """The target and the timeout in seconds of a call, for error messages."""

    target: str
    timeout: float | None = None

    @property
    def server(self) -> str:
        """Names the server, and its proxy if there is one."""
        if (proxy := proxy_of(self.target)) is None:
            return f"the server at {self.target}"
        return f"the server at {self.target} through the proxy {proxy.address} (${proxy.variable})"

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn a gRPC error of the body into one of ours."""
        try:
            yield
        except grpc.RpcError as error:
            raise translate(error, self) from error


@dataclass(slots=True)
class _Details:
    """The content of a failure's status details."""

    reason: str | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    violations: tuple[tuple[str, str], ...] = ()
    retry_after: float | None = None


def _read_details(error: grpc.RpcError) -> _Details:
    read = _Details()
    # Both clients give pairs of key and value; the stubs know it of neither.
    trailing: Iterable[tuple[str, Any]] = error.trailing_metadata() or ()  # type: ignore[assignment]
    for key, value in trailing:
        if key != _DETAILS_KEY:
            continue
        try:
            status = status_pb2.Status.FromString(value)
            for detail in status.details:
                info = error_details_pb2.ErrorInfo()
                bad_request = error_details_pb2.BadRequest()
                retry = error_details_pb2.RetryInfo()
                if detail.Unpack(info) and info.domain == DOMAIN:
                    read.reason = info.reason
                    read.metadata = dict(info.metadata)
                elif detail.Unpack(bad_request):
                    read.violations = tuple(
                        (v.field, v.description) for v in bad_request.field_violations
                    )
                elif detail.Unpack(retry):
                    read.retry_after = retry.retry_delay.ToNanoseconds() / 1e9
        except DecodeError:
            # Damaged details must not hide the status itself.
            continue
    return read


def _message(
    kind: type[exceptions.WuliArtError],
    error: grpc.RpcError,
    read: _Details,
    call: CallContext,
    answered: bool,
) -> str:
    """Returns what happened and what to do, in the server's own words where it gave any."""
    said = error.details() or f"the server ended the call with {error.code().name}"
    if read.violations:
        return "; ".join(f"{where}: {what}" for where, what in read.violations)
    if kind is exceptions.AdapterNotFound:
        nearest = read.metadata.get("nearest")
        return f"{said}; did you mean {nearest!r}?" if nearest and nearest not in said else said
    if read.reason is not None:
        return said
    if kind is exceptions.Unavailable:
        if "ping timeout" in said or (answered and "timed out" in said):
            return (
                f"{call.server} stopped answering: nothing came for "
                f"{SILENCE_SECONDS + ANSWER_SECONDS} s; see whether it runs and can be reached, "
                "then try again"
            )
        if any(sign in said for sign in _NO_CONNECTION):
            return (
                f"{call.server} does not answer: no connection within "
                f"{CONNECT_SECONDS} s; see whether it runs and can be reached, then try again"
            )
        if answered:
            return f"lost the connection to {call.server}: try again ({said})"
        if proxy_of(call.target) is not None:
            return (
                f"cannot reach {call.server}: to connect without the proxy, put the server's host "
                f"into $no_proxy; otherwise see whether both run ({said})"
            )
        return f"cannot reach {call.server}: is it running? start it with wuliart-server ({said})"
    if kind is exceptions.DeadlineExceeded:
        within = "its deadline" if call.timeout is None else f"{call.timeout:g} s"
        return f"{call.server} did not finish within {within}: allow more time"
    if kind is exceptions.ProtocolError:
        return (
            f"{call.server} answered {error.code().name}, which a WuliArt server of "
            f"this version does not: check the address and both versions ({said})"
        )
    return said


def translate(
    error: grpc.RpcError, call: CallContext, *, answered: bool = False
) -> exceptions.WuliArtError:
    """The exception for a failed call.

    `answered` is True if the server had sent a response: the connection was lost then, and the
    server is not merely unreachable.
    """
    read = _read_details(error)
    kind = BY_CODE.get(error.code(), exceptions.ProtocolError)
    if read.reason is not None and read.reason in Reason.__members__:
        kind = BY_REASON[Reason(read.reason)]
    message = _message(kind, error, read, call, answered)
    if issubclass(kind, exceptions.InvalidRequest):
        return kind(message, read.reason, read.metadata, read.violations)
    if issubclass(kind, exceptions.Busy):
        return kind(message, read.reason, read.metadata, read.retry_after)
    return kind(message, read.reason, read.metadata)
