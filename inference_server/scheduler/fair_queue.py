"""Fair queue: round-robin over clients, FIFO within each.

Clients stand in a ring, each with its waiting items. A client that was served moves to the ring's
end, and a new client joins just ahead of the one served last. Later arrivals therefore never delay
an item by more than one turn for each client.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import zip_longest
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """Waiting items. Iteration yields them in serving order; an item may leave from anywhere."""

    def __init__(self) -> None:
        self._ring: dict[str, list[T]] = {}
        """Items of each client; the client to be served next is first."""
        self._last_served = ""

    def join(self, item: T, client: str) -> None:
        """Appends an item behind the client's others, or puts a new client into the ring."""
        if client in self._ring:
            self._ring[client].append(item)
            return
        self._ring[client] = [item]
        self._move_to_end(self._last_served)

    def take(self, item: T) -> None:
        """Removes an item to serve it, first in the order or not; this uses its client's turn.

        Raises:
            ValueError: the item is not in the queue.
        """
        self._last_served = self._remove(item)
        self._move_to_end(self._last_served)

    def leave(self, item: T) -> None:
        """Removes an item without serving it; its client keeps its turn.

        Raises:
            ValueError: the item is not in the queue.
        """
        self._remove(item)

    def has_client(self, client: str) -> bool:
        """Returns True if an item of the client is in the queue."""
        return client in self._ring

    def clear(self) -> None:
        """Removes every item and forgets the turns."""
        self._ring.clear()
        self._last_served = ""

    def _move_to_end(self, client: str) -> None:
        if (items := self._ring.pop(client, None)) is not None:
            self._ring[client] = items

    def _remove(self, item: T) -> str:
        """Removes an item, and its client with the last one; returns the client."""
        for client, items in self._ring.items():
            if item in items:
                items.remove(item)
                if not items:
                    del self._ring[client]
                return client
        raise ValueError("the item is not in the queue")

    def __contains__(self, item: object) -> bool:
        return any(item in items for items in self._ring.values())

    def __iter__(self) -> Iterator[T]:
        # Over a copy: the scheduler takes items out while it iterates.
        missing = object()
        rounds = list(zip_longest(*self._ring.values(), fillvalue=missing))
        return iter([item for turn in rounds for item in turn if item is not missing])  # type: ignore[misc]

    def __len__(self) -> int:
        return sum(map(len, self._ring.values()))
