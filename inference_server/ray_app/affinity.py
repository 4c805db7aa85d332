"""Routing by adapter affinity: prefers a replica that holds an image's adapters.

A replica is assumed to hold the adapters of the images assigned to it last, as many as it has
slots. Imports nothing of Ray, so that the simulation of a large fleet can use it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

PATIENCE_IDLE: Final = 2
"""While a replica is idle: how many images more than the least loaded replica one that holds the
adapters may have and still be preferred."""

PATIENCE_BUSY: Final = 4
"""The same while every replica is busy. Both values come from a simulation of eight adapters on
four replicas of two slots: at 50, 70 and 90 % load, 91, 88 and 86 % of images find their adapter in
memory. With one value for all loads, fewer than 85 % do at 90 % load, or queues are longer at 50 %.
See docs/decisions.md."""


class Affinity:
    """The adapters assumed to be at each replica, and the order in which to try replicas.

    Args:
        slots: number of adapters that a replica keeps in memory.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: dict[str, OrderedDict[str, int]] = {}
        """For each replica, its adapters and the number of their last use, oldest first."""
        self._uses = 0

    def order(self, loads: Mapping[str, int], adapters: Collection[str]) -> list[str]:
        """Returns the replicas, best first.

        Args:
            loads: for each replica, the number of images that run and wait there.
            adapters: names of the image's adapters; if empty, the least loaded comes first.
        """
        least = min(loads.values(), default=0)
        patience = PATIENCE_BUSY if least else PATIENCE_IDLE

        def rank(replica: str) -> tuple[bool, int, int, int]:
            held: Mapping[str, int] = self._held.get(replica, {})
            found = sum(name in held for name in adapters)
            usable = found == len(adapters) and loads[replica] <= least + patience
            # The last use of the adapter that would be evicted; -1 if a slot is free.
            loss = next(iter(held.values())) if len(held) >= self._slots else -1
            return not (adapters and usable), loads[replica], -found, loss

        return sorted(loads, key=rank)

    def assigned(self, replica: str, adapters: Sequence[str]) -> None:
        """Notes that an image with these adapters was assigned to the replica."""
        held = self._held.setdefault(replica, OrderedDict())
        self._uses += 1
        for name in adapters:
            held[name] = self._uses
            held.move_to_end(name)
        while len(held) > max(self._slots, len(adapters)):
            held.popitem(last=False)

    def holds(self, replica: str, adapters: Collection[str]) -> bool:
        """Returns True if the replica is assumed to hold all of the adapters."""
        held: Mapping[str, int] = self._held.get(replica, {})
        return all(name in held for name in adapters)

    def reported(self, replica: str, resident: Collection[str]) -> None:
        """Notes the adapters that a replica reports, unless this process has assigned it images."""
        if replica not in self._held:
            self._held[replica] = OrderedDict.fromkeys(sorted(resident), 0)

    def keep_only(self, replicas: Collection[str]) -> None:
        """Forgets all other replicas."""
        for gone in self._held.keys() - set(replicas):
            del self._held[gone]
