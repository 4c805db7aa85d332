"""The table from reasons to status codes, and the details of a status."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import code_pb2, error_details_pb2

from inference_server.errors import RequestError, Violation
from inference_server.service.status import to_status
from wuliart_contract.status import CODES, DOMAIN, Reason


def details(error: RequestError) -> tuple[list[Any], ...]:
    status = to_status(error)
    kinds = (
        error_details_pb2.ErrorInfo,
        error_details_pb2.BadRequest,
        error_details_pb2.RetryInfo,
    )
    found: tuple[list[Any], ...] = ([], [], [])
    for detail in status.details:
        for messages, kind in zip(found, kinds, strict=True):
            message = kind()
            if detail.Unpack(message):
                messages.append(message)
    assert sum(map(len, found)) == len(status.details)
    return found


def test_every_reason_has_a_code() -> None:
    assert CODES.keys() == set(Reason)
    assert grpc.StatusCode.OK not in CODES.values()


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_becomes_a_status(reason: Reason) -> None:
    error = RequestError(reason, "what happened", metadata={"adapter": "ink"})
    status = to_status(error)
    assert status.code == code_pb2.Code.Value(CODES[reason].name) == CODES[reason].value[0]
    assert status.message == "what happened"
    info, bad, retry = details(error)
    assert [(i.reason, i.domain, dict(i.metadata)) for i in info] == [
        (reason.value, DOMAIN, {"adapter": "ink"})
    ]
    assert not bad and not retry


def test_violations_share_one_bad_request() -> None:
    found = [Violation("prompt", "is empty"), Violation("steps", "is 0")]
    _, bad, retry = details(RequestError(Reason.INVALID_REQUEST, "bad", violations=found))
    assert len(bad) == 1 and not retry
    assert [(v.field, v.description) for v in bad[0].field_violations] == [
        ("prompt", "is empty"),
        ("steps", "is 0"),
    ]


@pytest.mark.parametrize("seconds", [0.5, 1.0, 90.25])
def test_when_to_try_again(seconds: float) -> None:
    _, _, retry = details(RequestError(Reason.QUEUE_FULL, "busy", retry_after=seconds))
    assert [r.retry_delay.ToNanoseconds() / 1e9 for r in retry] == [seconds]
