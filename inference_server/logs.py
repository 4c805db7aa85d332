"""The server's log: where it goes, in which form, and which picture a line is about.

Owns the request id of the running task, which every record of it carries. Knows nothing of what is
logged; no layer logs a prompt unless the operator asked for that.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Literal

from wuliart.contract.logs import JsonFormatter, TextFormatter

Form = Literal["text", "json"]

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the picture that this task works on; empty if it works on none."""


def configure(level: str, form: Form = "text") -> None:
    """Sends everything from `level` on to stderr, in place of whatever was set up before."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    handler.addFilter(stamp)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def stamp(record: logging.LogRecord) -> bool:
    """Gives a record the id of the task that made it, unless it names one itself."""
    if request_id := REQUEST_ID.get():
        vars(record).setdefault("request_id", request_id)
    return True
