"""One log record as one line: JSON for machines, or text with the same fields for people.

Owns the lines' form, for server and manager alike; knows nothing of where they go or who asks.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Any, Final

_OWN: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
"""What every record has; anything else was given as `extra`."""

TEXT_FORMAT: Final = "%(asctime)s %(levelname)s %(name)s: %(message)s"


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
            "message": record.getMessage(),
            **extras(record),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False, default=str)


class TextFormatter(logging.Formatter):
    """What `logging` writes by itself, and behind the message what was given as `extra`.

    A line break inside the message is escaped: what a caller sent cannot look like a record.
    """

    def __init__(self) -> None:
        super().__init__(TEXT_FORMAT)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line without its traceback."""
        fields = [f" {name}={_word(value)}" for name, value in extras(record).items()]
        return "".join((super().formatMessage(record), *fields)).replace("\n", "\\n")


def _word(value: object) -> str:
    match value:
        case float():
            return f"{value:.3f}"
        case list() | tuple():
            return ",".join(map(_word, value)) or "-"
        case str() if not value or any(c.isspace() or c in '"=' for c in value):
            return json.dumps(value, ensure_ascii=False)
        case _:
            return str(value)
