"""The server's log: which image a line is about.

Owns the request id of the running task, which every record of it carries. No layer logs a prompt
unless the operator asked for that.
"""

from __future__ import annotations

import logging
from contextvars import ContextVar

from wuliart_process.logs import Form as Form
from wuliart_process.logs import send_to_stderr

REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")
"""Of the image that this task works on; empty if it works on none."""


def configure(level: str, form: Form = "text") -> None:
    """Sends everything from `level` on to stderr, in place of whatever was set up before."""
    send_to_stderr(level, form, stamp)


def stamp(record: logging.LogRecord) -> bool:
    """Gives a record the id of the task that made it, unless it names one itself."""
    if request_id := REQUEST_ID.get():
        vars(record).setdefault("request_id", request_id)
    return True
