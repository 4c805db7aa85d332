"""Reports queue positions to waiting requests, at a limited rate.

A full queue that moves twenty times a second would otherwise keep the event loop busy with numbers
that change faster than anyone can read them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from inference_server.scheduler.running_request import RunningRequest

REPORT_SECONDS = 0.25
"""Least time between two reports to one client; the first report is sent at once."""


class QueuePositions:
    """Reports positions as the queue changes. On the event loop only.

    Args:
        positions: returns the waiting requests, each with the number of requests before it.
    """

    def __init__(self, positions: Callable[[], Iterable[tuple[int, RunningRequest]]]) -> None:
        self._positions = positions
        self._loop = asyncio.get_running_loop()
        self._reported_at = -REPORT_SECONDS
        self._timer: asyncio.TimerHandle | None = None

    def changed(self) -> None:
        """Reports to every request if a report is due, otherwise only to new requests."""
        due = self._reported_at + REPORT_SECONDS
        is_due = self._loop.time() >= due
        if is_due:
            self._reported_at = self._loop.time()
        elif self._timer is None:
            self._timer = self._loop.call_at(due, self._report_later)
        for position, running in self._positions():
            if position and (is_due or not running.position):
                running.report_position(position)

    def stop(self) -> None:
        """Cancels the pending report."""
        if self._timer is not None:
            self._timer.cancel()

    def _report_later(self) -> None:
        self._timer = None
        self.changed()
