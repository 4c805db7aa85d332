"""Files that were written to and have not been closed since, according to inotify.

Where the kernel grants no read lease (on files of another user, above all), this is the only sign
of an open writer. It has three gaps: a writer that was there before the watch and writes nothing
more, one that writes through a memory mapping, and the second of two writers once the first closes
the file.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

WRITER_SILENCE_SECONDS: Final = 600.0
"""A write counts for this long: its close may have been among events that the kernel dropped, and
truncate(2) has none. Downloads that stall for longer are rare."""


class UnclosedWrites:
    """Absolute paths without symbolic links, with the time of the last write.

    The watch's thread writes and the scanner's thread reads; each step is one dict operation.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._written: dict[str, float] = {}

    def has(self, path: str) -> bool:
        """Returns True if the file was written to lately and has not been closed since."""
        written = self._written.get(path)
        if written is None:
            return False
        if self._clock() - written < WRITER_SILENCE_SECONDS:
            return True
        self._written.pop(path, None)
        return False

    def write(self, path: str) -> None:
        """Notes that a process wrote to the file."""
        self._written[path] = self._clock()

    def close(self, path: str) -> None:
        """Notes that a writer closed the file."""
        self._written.pop(path, None)

    def move(self, source: str, target: str) -> None:
        """Notes that a file or folder has another path; `target` is "" if it left the watch."""
        self._written.pop(target, None)
        for path, written in list(self._written.items()):
            if path == source or path.startswith(f"{source}/"):
                self._written.pop(path, None)
                if target:
                    self._written[target + path.removeprefix(source)] = written

    def clear(self) -> None:
        """Forgets everything, as closes will not be seen."""
        self._written.clear()
