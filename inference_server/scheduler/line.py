"""Who waits, in the order of their turns: callers take turns, however much each of them asks for.

Owns the order alone. A caller's next job has the turn after its last one, but never one that is
over: whoever has nothing waiting is next (start-time fair queueing with jobs of one size). Knows
nothing of what jobs are.
"""

from __future__ import annotations

from bisect import insort
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
        self._now = 0
        """Turn of the last job that was taken from the front."""
        self._had: dict[str, int] = {}
        """The last turn that a caller had, of those whose next one would not be over."""

    def join(self, job: T, caller: str) -> None:
        """Takes the place that is the caller's turn."""
        mine = [place.turn for place in self._places if place.caller == caller]
        last = max(mine, default=self._had.get(caller, self._now - 1))
        turn = max(self._now, last + 1)
        self._arrivals += 1
        insort(self._places, _Place(turn, self._arrivals, caller, job))

    def take(self, job: T) -> None:
        """It is the job's turn, or it goes before those who cannot go yet.

        Raises:
            ValueError: the job is not in line.
        """
        index = self._index(job)
        place = self._places.pop(index)
        self._had[place.caller] = max(place.turn, self._had.get(place.caller, place.turn))
        if index == 0:
            self._now = place.turn
            self._had = {c: turn for c, turn in self._had.items() if turn >= self._now}

    def leave(self, job: T) -> None:
        """Gives the place up: what was not drawn is not held against its caller.

        Raises:
            ValueError: the job is not in line.
        """
        self._places.pop(self._index(job))

    def waits(self, caller: str) -> bool:
        """Whether a job of the caller's is in line."""
        return any(place.caller == caller for place in self._places)

    def clear(self) -> None:
        """Everybody leaves."""
        self._places.clear()

    def _index(self, job: T) -> int:
        for index, place in enumerate(self._places):
            if place.job == job:
                return index
        raise ValueError("this job does not wait")

    def __contains__(self, job: object) -> bool:
        return any(place.job == job for place in self._places)

    def __iter__(self) -> Iterator[T]:
        # A copy: whoever looks through the line may take somebody out of it.
        return iter([place.job for place in self._places])  # type: ignore[misc]

    def __len__(self) -> int:
        return len(self._places)
