"""Writes log lines to standard error without making the logging thread wait for its reader.

The logging thread formats its line and puts it into a bounded queue; one other thread writes. A
pipe that is not read, a full disk or a stopped terminal blocks only the writing thread. Lines that
find the queue full are dropped and counted; the count is logged when writing resumes.
"""

from __future__ import annotations

import io
import json
import logging
import os
import re
import select
import threading
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Final

from wuliart_process.log_repeats import Repeats

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

MAX_WAITING: Final = 1_000
"""Entries in the queue; a record is one entry, however long its traceback."""

FLUSH_SECONDS: Final = 1.0
"""Time that the process waits at its end for unwritten lines."""

_POLL_SECONDS: Final = 5.0
"""Delay of the summary of repeated records, at most."""

_SUSPECT: Final = re.compile(r"[^\n\t -~]")


class StderrHandler(logging.Handler):
    """A handler that neither blocks nor raises, even if the descriptor cannot be written.

    Args:
        descriptor: receives the lines; None discards them, for a process without standard error.
    """

    def __init__(self, descriptor: int | None) -> None:
        super().__init__()
        self._descriptor = descriptor
        # Reentrant, as `SimpleQueue` is: a finalizer may log in the middle of anything.
        self._lines: SimpleQueue[str | threading.Event | None] = SimpleQueue()
        self._counting = threading.RLock()
        self._dropped = 0  # the queue was full
        self._unwritten, self._why = 0, ""  # the write failed
        self._repeats = Repeats()
        threading.Thread(target=self._write_all, name="log-writer", daemon=True).start()

    def emit(self, record: logging.LogRecord) -> None:
        """Queues the record's line, unless it repeats earlier records."""
        if self._repeats.admits(record):
            self.put(self._line(record))

    def put(self, line: str) -> None:
        """Queues one line, or counts it as dropped."""
        with self._counting:
            if self._dropped or self._lines.qsize() >= MAX_WAITING:
                self._dropped += 1
            else:
                self._lines.put(line)

    def stream(self) -> io.TextIOWrapper:
        """Returns a `sys.stderr` whose lines are queued, for code that does not use `logging`."""
        raw = _Stream(self, self._descriptor)
        # TextIOWrapper calls only `write`, with whole lines, so no buffer is needed.
        return io.TextIOWrapper(
            raw, encoding="utf-8", errors="backslashreplace", line_buffering=True
        )

    def flush(self) -> None:
        """Waits until the queued lines are written, `FLUSH_SECONDS` at most."""
        written = threading.Event()
        self._lines.put(written)
        written.wait(FLUSH_SECONDS)

    def close(self) -> None:
        """Ends the writing thread after the queued lines, without waiting for it."""
        self._lines.put(None)
        super().close()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.format(record)
        except Exception as error:  # arguments that do not fit the template, or cannot be shown
            message = "a record made at %s:%d cannot be shown: %s"
            place = record.pathname, record.lineno
            args = (*place, type(error).__name__)
            return self.format(
                logging.LogRecord(record.name, record.levelno, *place, message, args, None)
            )

    def _write_all(self) -> None:
        while True:
            try:
                item = self._lines.get(timeout=_POLL_SECONDS)
            except Empty:
                item = ""
            if item is None:
                return
            if isinstance(item, threading.Event):
                item.set()
            elif item:
                self._write(item)
            for record in self._repeats.due():
                self.put(self._line(record))
            if self._lines.qsize() <= MAX_WAITING // 2:
                self._report_dropped()

    def _write(self, line: str) -> None:
        if self._descriptor is None:
            return
        data = memoryview(f"{_SUSPECT.sub(_escaped, line)}\n".encode())
        try:
            while data:
                try:
                    data = data[os.write(self._descriptor, data) :]
                except BlockingIOError:  # another process has made the terminal non-blocking
                    select.select([], [self._descriptor], [])
        except OSError as error:
            self._unwritten += 1
            self._why = error.strerror or type(error).__name__
            return
        if self._unwritten:
            self._report(self._unwritten, f"stderr could not be written: {self._why}")
            self._unwritten = 0

    def _report_dropped(self) -> None:
        with self._counting:
            if count := self._dropped:
                self._dropped = 0
                self._report(count, "stderr was not read")

    def _report(self, count: int, why: str) -> None:
        message = "%d log records were dropped: %s"
        args = (count, why)
        self.put(
            self._line(
                logging.LogRecord(__name__, logging.WARNING, __file__, 0, message, args, None)
            )
        )


class _Stream(io.RawIOBase):
    """The raw stream under `StderrHandler.stream`; receives whole lines."""

    name = "<stderr>"

    def __init__(self, handler: StderrHandler, descriptor: int | None) -> None:
        self._handler = handler
        self._descriptor = descriptor

    def writable(self) -> bool:
        return True

    def write(self, data: ReadableBuffer, /) -> int:
        text = bytes(data)
        for line in text.decode(errors="backslashreplace").split("\n"):
            if line:
                self._handler.put(line)
        return len(text)

    def fileno(self) -> int:
        return super().fileno() if self._descriptor is None else self._descriptor

    def isatty(self) -> bool:
        return self._descriptor is not None and os.isatty(self._descriptor)

    def close(self) -> None:
        """Does nothing: the descriptor belongs to the process."""


def _escaped(match: re.Match[str]) -> str:
    """Returns a character as JSON escapes it, which suits both line formats."""
    character = match.group()
    return character if character.isprintable() else json.dumps(character)[1:-1]
