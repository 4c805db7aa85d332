"""The server's log: every record of a task carries the id of the request it works on.

Prompts are logged only if the operator asked for that.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from wuliart_process.logs import Form as Form
from wuliart_process.logs import send_to_stderr

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""The id of the request that this task works on; empty if there is none."""


def configure(level: str, form: Form = "text") -> None:
    """Replaces the root logger's handlers by one that writes to stderr from `level` up."""
    send_to_stderr(level, form, stamp)


def stamp(record: logging.LogRecord) -> bool:
    """Adds the task's request id to a record that has none; returns True."""
    if request_id := REQUEST_ID.get():
        vars(record).setdefault("request_id", request_id)
    return True
