"""Errors between manager and server, and the gRPC status that each stands for.

The only module that reads status codes.

    SegmentError
    ├── SessionLostError           the session is over; attach again
    │   ├── ServerAbsentError      nothing listens (yet)
    │   ├── UntrustedServerError   another user owns what leads to the server
    │   ├── AlreadyAttachedError   another manager holds it
    │   └── VersionMismatchError   server and manager are built from different layouts
    ├── NoFreeSlotError            nothing to write into; the adapter stays listed
    ├── ReservationLostError       the lease ran out or bytes got lost; start over
    └── WriteRejectedError         the server refuses this write for another reason
"""

from __future__ import annotations

from typing import cast

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from wuliart_contract.status import DOMAIN, Reason


class SegmentError(Exception):
    """Base of what goes wrong between manager and server."""


class SessionLostError(SegmentError):
    """The session is over; attach again."""


class ServerAbsentError(SessionLostError):
    """Nothing listens on the server's sockets (yet)."""


class UntrustedServerError(SessionLostError):
    """Another user of the machine owns the runtime folder, can change it, or listens in it."""


class AlreadyAttachedError(SessionLostError):
    """Another manager holds the session."""


class VersionMismatchError(SessionLostError):
    """Server and manager are built from different versions of the layout."""


class NoFreeSlotError(SegmentError):
    """There is nothing to write into."""


class ReservationLostError(SegmentError):
    """The lease ran out or the slot's bytes were not what was written."""


class WriteRejectedError(SegmentError):
    """The server refuses this write."""


def translate(error: grpc.aio.AioRpcError) -> SegmentError:
    """The exception that a failed call means."""
    reason = _reason(error)
    text = error.details() or error.code().name
    if reason == Reason.MANAGER_ALREADY_ATTACHED:
        return AlreadyAttachedError(text)
    if reason in (Reason.RESERVATION_LOST, Reason.CHECKSUM_MISMATCH):
        return ReservationLostError(text)
    match error.code():
        case grpc.StatusCode.RESOURCE_EXHAUSTED:
            return NoFreeSlotError(text)
        case grpc.StatusCode.DATA_LOSS:
            return ReservationLostError(text)
        case (
            grpc.StatusCode.INVALID_ARGUMENT
            | grpc.StatusCode.NOT_FOUND
            | grpc.StatusCode.FAILED_PRECONDITION
            | grpc.StatusCode.INTERNAL
        ):
            return WriteRejectedError(text)
        case grpc.StatusCode.UNAVAILABLE if reason == "":
            # gRPC's own words: nothing answered, so there is no ErrorInfo.
            return ServerAbsentError(f"the server does not answer: {text}")
        case _:
            return SessionLostError(text)


def _reason(error: grpc.aio.AioRpcError) -> str:
    """ErrorInfo.reason of a failed call; empty if it carries none."""
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except ValueError:
        return ""
    info = error_details_pb2.ErrorInfo()
    for detail in status.details if status is not None else ():
        if detail.Unpack(info) and info.domain == DOMAIN:
            return str(info.reason)
    return ""
