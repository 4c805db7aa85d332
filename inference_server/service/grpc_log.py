"""Turns the errors that untrusted clients can make gRPC log into one-line warnings.

`wuliart_process.log_repeats` limits how often a line is written.
"""

from __future__ import annotations

import logging
from typing import Final

LOGGER: Final = "grpc._cython.cygrpc"

BEGINNINGS: Final = ("Invalid encoding on", "ExecuteBatchError raised in core")
"""How these messages begin: a header is not text; the client of a call is gone."""

MAX_CHARACTERS: Final = 200
"""Longest such message; it quotes what the client sent."""


def limit_grpc() -> None:
    """Adds the filter to gRPC's logger, once however often it is called."""
    logging.getLogger(LOGGER).addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith(BEGINNINGS):
        record.msg, record.args = record.getMessage()[:MAX_CHARACTERS], ()
        record.exc_info = record.exc_text = None
        # gRPC calls it an error that a client has gone or sent nonsense; for the server it is none.
        record.levelno, record.levelname = logging.WARNING, logging.getLevelName(logging.WARNING)
    return True
