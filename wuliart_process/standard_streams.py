"""Standard output and standard error of a command, whatever they are connected to.

A closed stream is replaced by /dev/null. A failed write to standard output ends the command with
one line, or silently if the reader has gone. A failed write to standard error is ignored, because
it cannot be reported anywhere.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

STDOUT, STDERR = 1, 2
"""File descriptors."""

BROKEN_PIPE: Final = 128 + signal.SIGPIPE if sys.platform != "win32" else 1
"""Exit code if the reader of standard output has gone, as shells report it for other tools."""


class OutputError(Exception):
    """Standard output cannot be written; `cause` is the operating system's error."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(f"cannot write to standard output: {cause.strerror}")
        self.cause = cause


@contextmanager
def standard_streams(program: str) -> Iterator[None]:
    """Guards both streams while the body runs, and flushes them at its end.

    Args:
        program: name of the command, for the line about a failed write.

    Raises:
        SystemExit: standard output could not be written; the code is `BROKEN_PIPE` or 1.
    """
    _open_missing()
    before = sys.stdout, sys.stderr
    # Streams that a test has put there are not descriptors, and are left alone.
    if sys.stdout is sys.__stdout__:
        sys.stdout = _guarded(STDOUT, sys.stdout)
    if sys.stderr is sys.__stderr__:
        sys.stderr = _guarded(STDERR, sys.stderr)
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except OutputError as error:
        if isinstance(error.cause, BrokenPipeError):
            raise SystemExit(BROKEN_PIPE) from None
        sys.stderr.write(f"{program}: {error}\n")
        raise SystemExit(1) from None
    finally:
        sys.stderr.flush()
        sys.stdout, sys.stderr = before


def end_when_unread() -> None:
    """Raises `OutputError` in the main thread as soon as the reader of standard output has gone.

    For a command that may write nothing for hours and would otherwise outlive its reader until the
    next line. Must be called in the main thread, inside `standard_streams`.
    """
    if sys.platform == "win32":
        return

    def gone(seconds: float | None) -> bool:
        poll = select.poll()
        poll.register(STDOUT, 0)
        return any(events & select.POLLERR for _, events in poll.poll(seconds))

    def stop(*_: object) -> None:
        if gone(0):
            _discard(STDOUT)
            raise OutputError(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)))

    def wait() -> None:
        if gone(None):
            signal.pthread_kill(main, signal.SIGPIPE)

    main = threading.get_ident()
    signal.signal(signal.SIGPIPE, stop)
    threading.Thread(target=wait, name="stdout-reader", daemon=True).start()


class _Descriptor(io.FileIO):
    """A file descriptor whose first failed write redirects it to /dev/null."""

    def write(self, data: ReadableBuffer) -> int:
        """Writes what fits; waits if a non-blocking pipe is full."""
        try:
            while (written := super().write(data)) is None:
                select.select((), (self,), ())
        except OSError as error:
            # Discards the rest of the buffers, also at the interpreter's exit.
            _discard(self.fileno())
            if self.fileno() == STDOUT:
                raise OutputError(error) from None
            return memoryview(data).nbytes
        return written


def _guarded(descriptor: int, stream: TextIO | None) -> TextIO:
    raw = _Descriptor(descriptor, "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding if stream else "utf-8",
        # A Chinese title must not end a command whose locale cannot encode it.
        errors="backslashreplace",
        line_buffering=descriptor == STDERR or raw.isatty(),
    )


def _open_missing() -> None:
    """Opens /dev/null in place of each closed standard descriptor.

    Otherwise the next file or connection would get its number, and messages would be written into
    it.
    """
    for descriptor in (0, STDOUT, STDERR):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number


def _discard(descriptor: int) -> None:
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)
