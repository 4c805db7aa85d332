"""The log of a program: one record as one line on standard error, in JSON or as text.

Both forms have the same fields. Used by server, manager and page alike; which records there are is
their own business.
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
"""Of a message, and of a traceback; what is longer loses its middle."""

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else was given as `extra`."""


def send_to_stderr(
    level: str, form: Form = "text", *filters: Callable[[logging.LogRecord], bool]
) -> None:
    """Sends everything this process has to say to standard error, and never waits for it.

    Replaces what was set up before: the root logger's handlers, and `sys.stderr` itself, so that
    libraries that print are covered, too. Warnings, and exceptions that end a thread or that
    Python has to ignore, become records. uvicorn's records come here if it has no `log_config`.

    Args:
        level: the least one that is written.
        form: of the lines.
        filters: called in the thread that logs, for what they read from its context.
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
    """The fields that were given as `extra`, in their order.

    A name that begins with an underscore is a library's own: Ray gives its processes' records one.
    """
    return {
        name: value
        for name, value in vars(record).items()
        if name not in _OWN and not name.startswith("_")
    }


class JsonFormatter(logging.Formatter):
    """A JSON object per record: time, level, logger, message, then what was given as `extra`."""

    def format(self, record: logging.LogRecord) -> str:
        """One line; a traceback is a field of it."""
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
    """Time, level, logger and message, then what was given as `extra`; a traceback below it.

    Nothing inside a record looks like another record: a line break inside the message is escaped,
    and the lines of a traceback, which quotes what clients have sent, are indented.
    """

    def format(self, record: logging.LogRecord) -> str:
        """One line, and those of a traceback."""
        time = self.formatTime(record)
        message = _shortened(record.getMessage())
        fields = [f" {name}={_word(value)}" for name, value in extras(record).items()]
        line = f"{time} {record.levelname} {record.name}: {message}{''.join(fields)}"
        lines = [line.replace("\n", "\\n")]
        if record.exc_info:
            # Only line feeds end a line: other breaks are escaped where the text is written.
            lines += _shortened(self.formatException(record.exc_info)).split("\n")
        return "\n    ".join(lines)


def _shortened(text: str) -> str:
    if (left_out := len(text) - MAX_CHARACTERS) <= 0:
        return text
    half = MAX_CHARACTERS // 2
    return f"{text[:half]} ... {left_out} characters ... {text[-half:]}"


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
    """Of standard error; None if the process was started without one."""
    if sys.stderr is None:
        # The number 2 may be any other file of this process by now.
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
