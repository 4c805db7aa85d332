"""gRPC's complaints about its clients: one line each, as warnings; its own errors stay errors."""

from __future__ import annotations

import logging

import pytest

from inference_server.service.grpc_log import LOGGER, limit_grpc


@pytest.mark.parametrize(
    ("message", "level", "traced"),
    [
        ("ExecuteBatchError raised in core by servicer method [/a.B/C]", "WARNING", False),
        ("Invalid encoding on " + "x" * 5000, "WARNING", False),
        ("Unexpected RuntimeError raised by servicer method [/a.B/C]", "ERROR", True),
    ],
)
def test_what_a_client_causes_is_a_short_warning(
    caplog: pytest.LogCaptureFixture, message: str, level: str, traced: bool
) -> None:
    limit_grpc()
    try:
        raise RuntimeError
    except RuntimeError:
        logging.getLogger(LOGGER).exception(message)
    (record,) = caplog.records
    assert (record.levelname, record.exc_info is not None) == (level, traced)
    assert len(record.getMessage()) <= 200
