"""Reasons of failures and their gRPC status codes.

The server looks up the code when it ends a call, clients the reason when they raise an exception.

A status carries `google.rpc.ErrorInfo(reason=<name>, domain="wuliart")`; INVALID_REQUEST adds
`BadRequest`; QUEUE_FULL, NO_FREE_SLOT and RATE_LIMITED add `RetryInfo`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import grpc

DOMAIN: Final = "wuliart"


class Reason(StrEnum):
    """Why a call failed; the value travels as `ErrorInfo.reason`."""

    INVALID_REQUEST = "INVALID_REQUEST"
    ADAPTER_NOT_FOUND = "ADAPTER_NOT_FOUND"
    ADAPTER_REFUSED = "ADAPTER_REFUSED"
    QUEUE_FULL = "QUEUE_FULL"
    NO_FREE_SLOT = "NO_FREE_SLOT"
    MANAGER_UNAVAILABLE = "MANAGER_UNAVAILABLE"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    RATE_LIMITED = "RATE_LIMITED"
    STARTING = "STARTING"
    DRAINING = "DRAINING"
    REPLICA_LOST = "REPLICA_LOST"
    NON_FINITE = "NON_FINITE"
    INTERNAL = "INTERNAL"
    # Only between server and LoRA manager:
    MANAGER_ALREADY_ATTACHED = "MANAGER_ALREADY_ATTACHED"
    SESSION_LOST = "SESSION_LOST"
    RESERVATION_LOST = "RESERVATION_LOST"
    CHECKSUM_MISMATCH = "CHECKSUM_MISMATCH"


CODES: Final[dict[Reason, grpc.StatusCode]] = {
    Reason.INVALID_REQUEST: grpc.StatusCode.INVALID_ARGUMENT,
    Reason.ADAPTER_NOT_FOUND: grpc.StatusCode.NOT_FOUND,
    Reason.ADAPTER_REFUSED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.QUEUE_FULL: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.NO_FREE_SLOT: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.MANAGER_UNAVAILABLE: grpc.StatusCode.UNAVAILABLE,
    Reason.UNAUTHENTICATED: grpc.StatusCode.UNAUTHENTICATED,
    Reason.RATE_LIMITED: grpc.StatusCode.RESOURCE_EXHAUSTED,
    Reason.STARTING: grpc.StatusCode.UNAVAILABLE,
    Reason.DRAINING: grpc.StatusCode.UNAVAILABLE,
    Reason.REPLICA_LOST: grpc.StatusCode.UNAVAILABLE,
    Reason.NON_FINITE: grpc.StatusCode.INTERNAL,
    Reason.INTERNAL: grpc.StatusCode.INTERNAL,
    Reason.MANAGER_ALREADY_ATTACHED: grpc.StatusCode.FAILED_PRECONDITION,
    Reason.SESSION_LOST: grpc.StatusCode.ABORTED,
    Reason.RESERVATION_LOST: grpc.StatusCode.ABORTED,
    Reason.CHECKSUM_MISMATCH: grpc.StatusCode.DATA_LOSS,
}
