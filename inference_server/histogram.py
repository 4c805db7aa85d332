"""A histogram as Prometheus counts it, in plain memory."""

from __future__ import annotations

from bisect import bisect_left
from typing import Final

SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds of the buckets, inclusive: from a small adapter's checksum to the longest wait for a
manager."""


class Histogram:
    """Counts values by bucket.

    Args:
        bounds: upper bounds of the buckets, ascending, inclusive.
    """

    __slots__ = ("_bounds", "_buckets", "count", "sum")

    def __init__(self, bounds: tuple[float, ...] = SECONDS) -> None:
        self.count = 0
        self.sum = 0.0
        self._bounds = bounds
        self._buckets = [0] * len(bounds)

    def observe(self, value: float) -> None:
        """Adds one value."""
        self.count += 1
        self.sum += value
        if (bucket := bisect_left(self._bounds, value)) < len(self._bounds):
            self._buckets[bucket] += 1

    def cumulative(self) -> list[tuple[float, int]]:
        """Returns (bound, number of values up to it) for each bound, ascending."""
        total, found = 0, []
        for bound, here in zip(self._bounds, self._buckets, strict=True):
            total += here
            found.append((bound, total))
        return found
