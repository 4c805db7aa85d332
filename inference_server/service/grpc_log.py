"""Takes the traceback from what strangers can make gRPC log: a line is enough.

How often a line may come is the log's own business (`wuliart_process.log_repeats`).
"""

from __future__ import annotations

import logging
from typing import Final

LOGGER: Final = "grpc._cython.cygrpc"

BEGINNINGS: Final = ("Invalid encoding on", "ExecuteBatchError raised in core")
"""Of the messages: of a header that is not text, and of a call whose client is gone."""

MAX_CHARACTERS: Final = 200
"""Of such a message: it quotes what the client sent."""


def limit_grpc() -> None:
    """Puts the limit on gRPC's logger; a second time changes nothing."""
    logging.getLogger(LOGGER).addFilter(_shortened)


def _shortened(record: logging.LogRecord) -> bool:
    if str(record.msg).startswith(BEGINNINGS):
        record.msg, record.args = record.getMessage()[:MAX_CHARACTERS], ()
        record.exc_info = record.exc_text = None
    return True
