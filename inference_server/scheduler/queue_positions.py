"""How many come first, told to everybody who waits, but not too often.

Owns when it is told: a full queue that moves twenty times a second would otherwise keep the event
loop busy with numbers that nobody can read so fast. Knows nothing of who is next.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from inference_server.scheduler.request import Job

TELL_SECONDS = 0.25
"""Between two numbers that one client is told; its first comes at once."""


class Positions:
    """Tells jobs their positions.

    Args:
        look: who waits, each with the number of those before it.
    """

    def __init__(self, look: Callable[[], Iterable[tuple[int, Job]]]) -> None:
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._told_at = -TELL_SECONDS
        self._later: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """The line has moved or grown. On the event loop, as everything here."""
        due = self._told_at + TELL_SECONDS
        everybody = self._loop.time() >= due
        if everybody:
            self._told_at = self._loop.time()
        elif self._later is None:
            self._later = self._loop.call_at(due, self._tell_later)
        for position, job in self._look():
            if position and (everybody or not job.position):
                job.tell_position(position)

    def stop(self) -> None:
        """Nobody is told any more."""
        if self._later is not None:
            self._later.cancel()

    def _tell_later(self) -> None:
        self._later = None
        self.changed()
