"""The log of a program: each record is one line on standard error, in JSON or as text.

Both formats have the same fields. The server, the LoRA manager and the page use it.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal

from wuliart_process.log_handler import StderrHandler

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

Form = Literal["text", "json"]

MAX_CHARACTERS: Final = 8_192
"""Longest message, and longest traceback; a longer one loses its middle."""

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""Attributes of every record; any other was given as `extra`."""


def send_to_stderr(
    level: str, form: Form = "text", *filters: Callable[[logging.LogRecord], bool]
) -> None:
    """Sends the log of this process to standard error, without ever waiting for its reader.

    Replaces the root logger's handlers, and `sys.stderr` itself, which covers libraries that
    print. Warnings become records, as do exceptions that end a thread or that Python ignores.
    uvicorn's records are included if uvicorn has no `log_config`.

    Args:
        level: lowest level that is written.
        form: format of the lines.
        filters: called in the logging thread, so that they can read its context.
    """
    handler = StderrHandler(_descriptor())
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    for each in filters:
        handler.addFilter(each)
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.stderr = handler.stream()
    threading.excepthook = _thread_failed
    sys.unraisablehook = _ignored


def extras(record: logging.LogRecord) -> dict[str, Any]:
    """Returns a record's `extra` fields, in their order.

    Names that begin with an underscore are left out: they belong to libraries, such as Ray.
    """
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _OWN and not name.startswith("_")
    }


class JsonFormatter(logging.Formatter):
    """A JSON object per record: time, level, logger, message, then the `extra` fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line, with the traceback as a field."""
        fields: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _shortened(record.getMessage()),
            **extras(record),
        }
        if record.exc_info:
            fields["exception"] = _shortened(self.formatException(record.exc_info))
        return json.dumps(fields, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """Time, level, logger and message, then the `extra` fields; a traceback below.

    No part of a record can be taken for another record: line breaks in the message are escaped,
    and the lines of a traceback, which may quote a client's input, are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns one line, followed by those of the traceback."""
        time = self.formatTime(record)
        message = _shortened(record.getMessage())
        fields = [f" {name}={_word(value)}" for name, value in extras(record).items()]
        line = f"{time} {record.levelname} {record.name}: {message}{''.join(fields)}"
        lines = [line.replace("\n", "\\n")]
        if record.exc_info:
            # Other line breaks than line feeds are escaped where the text is written.
            lines += _shortened(self.formatException(record.exc_info)).split("\n")
        return "\n    ".join(lines)


def _shortened(text: str) -> str:
    if (omitted := len(text) - MAX_CHARACTERS) <= 0:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} ... {omitted} characters ... {text[-half:]}"


def _word(value: object) -> str:
    match value:
        case float():
            return f"{value:.3f}"
        case list() | tuple():
            return ",".join(map(_word, value)) or "-"
    text = str(value)
    if not text or any(c.isspace() or c in '"=' for c in text):
        return json.dumps(text, ensure_ascii=False)
    return text


def _descriptor() -> int | None:
    """Returns the descriptor of standard error; None if the process was started without one."""
    if sys.stderr is None:
        # Descriptor 2 may be any other file of this process by now.
        return None
    return sys.stderr.fileno()


def _thread_failed(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread else "unknown"
    logging.getLogger("threading").error(
        "a thread failed: %s", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )


def _ignored(args: UnraisableHookArgs) -> None:
    what = args.err_msg or "exception ignored in"
    error = args.exc_value or args.exc_type()
    logging.getLogger("python").error(
        "%s %r", what, args.object, exc_info=(args.exc_type, error, args.exc_traceback)
    )
