"""Who waits, in the order of their turns: clients take turns, however much each of them asks for.

Owns the order alone. Clients stand in a ring, each with its jobs behind it: whoever has a turn goes
to the end, and so does whoever comes anew. So nobody is overtaken by those who came later, but by
their own further jobs' worth. Knows nothing of what jobs are.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

T = TypeVar("T")


class Line(Generic[T]):
    """Waiting jobs. Iterating gives them in order; a job may leave from anywhere."""

    def __init__(self) -> None:
        self._ring: dict[str, list[T]] = {}
        """The jobs of each client, the client whose turn it is first."""
        self._served = ""
        """Who had the last turn: whoever comes anew goes before it."""

    def join(self, job: T, client: str) -> None:
        """Behind the client's others, or as a newcomer at the end of the ring."""
        if client in self._ring:
            self._ring[client].append(job)
            return
        self._ring[client] = [job]
        self._to_the_end(self._served)

    def take(self, job: T) -> None:
        """It is the job's turn, or it goes before those who cannot go yet.

        Raises:
            ValueError: the job is not in line.
        """
        self._served = self._remove(job)
        self._to_the_end(self._served)

    def leave(self, job: T) -> None:
        """Gives the place up: what was not generated is not held against its client.

        Raises:
            ValueError: the job is not in line.
        """
        self._remove(job)

    def waits(self, client: str) -> bool:
        """Whether a job of the client's is in line."""
        return client in self._ring

    def clear(self) -> None:
        """Everybody leaves."""
        self._ring.clear()
        self._served = ""

    def _to_the_end(self, client: str) -> None:
        if (jobs := self._ring.pop(client, None)) is not None:
            self._ring[client] = jobs

    def _remove(self, job: T) -> str:
        """Takes a job out; its client goes with its last one."""
        for client, jobs in self._ring.items():
            if job in jobs:
                jobs.remove(job)
                if not jobs:
                    del self._ring[client]
                return client
        raise ValueError("this job does not wait")

    def __contains__(self, job: object) -> bool:
        return any(job in jobs for jobs in self._ring.values())

    def __iter__(self) -> Iterator[T]:
        # A copy: whoever looks through the line may take somebody out of it.
        nobody = object()
        rounds = list(zip_longest(*self._ring.values(), fillvalue=nobody))
        return iter([job for turn in rounds for job in turn if job is not nobody])  # type: ignore[misc]

    def __len__(self) -> int:
        return sum(map(len, self._ring.values()))
