"""Who waits, in the order of their turns: callers take turns, however much each of them asks for.

Owns the order alone. A caller's first waiting job has the turn of whoever is first in line, its
second the one after that, and so on (start-time fair queueing with jobs of one size), so that one
who asks for a single picture waits for at most one of everybody else's. Knows nothing of what jobs
are.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

T = TypeVar("T")


class _Place(NamedTuple):
    turn: int
    arrival: int
    """Among jobs of one turn the first comes first; never equal, so jobs are never compared."""
    caller: str
    job: object


class Line(Generic[T]):
    """Waiting jobs. Iterating gives them in order; a job may leave from anywhere."""

    def __init__(self) -> None:
        self._places: list[_Place] = []
        self._arrivals = 0

    def join(self, job: T, caller: str) -> None:
        """Takes the place that is the caller's turn."""
        first = self._places[0].turn if self._places else 0
        last = max((p.turn for p in self._places if p.caller == caller), default=first - 1)
        self._arrivals += 1
        insort(self._places, _Place(last + 1, self._arrivals, caller, job))

    def leave(self, job: T) -> None:
        """Gives the place up.

        Raises:
            ValueError: the job is not in line.
        """
        for index, place in enumerate(self._places):
            if place.job == job:
                del self._places[index]
                return
        raise ValueError("this job does not wait")

    def waiting_of(self, caller: str) -> int:
        """How many of the caller's jobs wait."""
        return Counter(place.caller for place in self._places)[caller]

    def clear(self) -> None:
        """Everybody leaves."""
        self._places.clear()

    def __contains__(self, job: object) -> bool:
        return any(place.job == job for place in self._places)

    def __iter__(self) -> Iterator[T]:
        # A copy: whoever looks through the line may take somebody out of it.
        return iter([place.job for place in self._places])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._places)
