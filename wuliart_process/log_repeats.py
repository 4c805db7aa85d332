"""Collapses repeated log records: a fault with 5,000 records a second gets one line a minute.

Applies to warnings and above. Records below are separate events, such as a completed image, and are
all written.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from traceback import walk_tb
from typing import Final

ALLOWED: Final = 20
"""Equal records written within `WINDOW_SECONDS`; further ones are only counted."""

WINDOW_SECONDS: Final = 60.0

MAX_KINDS: Final = 1_000
"""Kinds of records counted at once; templates are written in code, so there are fewer."""

Kind = tuple[str, str, str, str, int]
"""Logger, the template's first line without digits, the exception's class, its file and line."""


@dataclass(slots=True)
class _Window:
    """Counts of one kind; holds text only, as a record would keep its traceback's frames alive."""

    ends: float
    seen: int
    omitted: int
    text: str
    level: int


class Repeats:
    """Counts equal records. Safe to use from several threads.

    Args:
        clock: monotonic, in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._windows: dict[Kind, _Window] = {}
        self._next_end = math.inf
        # Reentrant: a finalizer may log while this thread holds it.
        self._lock = threading.RLock()

    def admits(self, record: logging.LogRecord) -> bool:
        """Returns True if the record is to be written, False if it is only counted."""
        if record.levelno < logging.WARNING:
            return True
        kind = _kind(record)
        with self._lock:
            window = self._windows.get(kind)
            if window is None:
                if len(self._windows) < MAX_KINDS:
                    self._begin(kind, _Window(0, 1, 0, "", record.levelno))
                return True
            window.seen += 1
            if window.seen <= ALLOWED:
                return True
            window.omitted += 1
            window.text = window.text or _first_line(record)
            return False

    def due(self) -> list[logging.LogRecord]:
        """Closes expired windows and returns a summary record for each that omitted records.

        A kind that keeps repeating gets only a summary for its next window, too.
        """
        now = self._clock()
        if now < self._next_end:
            return []
        summaries = []
        with self._lock:
            over = [(kind, w) for kind, w in self._windows.items() if w.ends <= now]
            for kind, window in over:
                del self._windows[kind]
                if window.omitted:
                    summaries.append(_summary(kind, window))
                    self._begin(kind, _Window(0, ALLOWED, 0, "", window.level))
            self._next_end = min((w.ends for w in self._windows.values()), default=math.inf)
        return summaries

    def _begin(self, kind: Kind, window: _Window) -> None:
        window.ends = self._clock() + WINDOW_SECONDS
        self._windows[kind] = window
        self._next_end = min(self._next_end, window.ends)


def _kind(record: logging.LogRecord) -> Kind:
    template = str(record.msg).partition("\n")[0]
    cause, place, line = "", "", 0
    if record.exc_info and record.exc_info[0] is not None:
        cause = record.exc_info[0].__name__
        for frame, line in walk_tb(record.exc_info[2]):  # noqa: B007 - the innermost frame is kept
            place = frame.f_code.co_filename
    return record.name, "".join(c for c in template if not c.isdigit()), cause, place, line


def _first_line(record: logging.LogRecord) -> str:
    try:
        return record.getMessage().partition("\n")[0]
    except Exception:  # arguments that do not fit the template, or cannot be shown
        return str(record.msg).partition("\n")[0]


def _summary(kind: Kind, window: _Window) -> logging.LogRecord:
    message = "%d more like this within %.0f s: %s"
    args = (window.omitted, WINDOW_SECONDS, window.text)
    return logging.LogRecord(kind[0], window.level, kind[3], kind[4], message, args, None)
