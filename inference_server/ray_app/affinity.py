"""Which replica generates an image: one that holds its adapters, if it is free enough.

Owns the rule, and what each replica is believed to hold: the adapters of the images that it was
given last, as many as it has slots. Knows nothing of Ray; the simulation of a large fleet uses it
as it is.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from typing import Final

PATIENCE_IDLE: Final = 2
"""Images more than elsewhere that are put up with for an adapter's sake while a replica is idle."""

PATIENCE_BUSY: Final = 4
"""The same while all are busy. Both from a simulation, eight adapters on four replicas of two
slots: at 50, 70 and 90 % load 91, 88 and 86 % of images find their adapter. With one number for
all loads it is either less than 85 % at 90 %, or waits are longer at 50 %. See
docs/decisions.md."""


class Affinity:
    """What replicas are believed to hold, and who is to generate next.

    Args:
        slots: adapters that a replica keeps in memory; what it says of itself later counts more.
    """

    def __init__(self, slots: int) -> None:
        self._slots = slots
        self._held: dict[str, OrderedDict[str, int]] = {}
        """Of each replica its adapters and the number of their last use, the oldest first."""
        self._uses = 0

    def order(self, loads: Mapping[str, int], adapters: Collection[str]) -> list[str]:
        """Replicas in the order in which they should be asked.

        Args:
            loads: of each replica, images that it generates and that wait there.
            adapters: names that the image needs; with none, the least loaded comes first.
        """
        least = min(loads.values(), default=0)
        patience = PATIENCE_BUSY if least else PATIENCE_IDLE

        def rank(replica: str) -> tuple[bool, int, int, int]:
            held: Mapping[str, int] = self._held.get(replica, {})
            found = sum(name in held for name in adapters)
            usable = found == len(adapters) and loads[replica] <= least + patience
            # What has to go: nothing at best, else what nobody has wanted for longest.
            loss = next(iter(held.values())) if len(held) >= self._slots else -1
            return not (adapters and usable), loads[replica], -found, loss

        return sorted(loads, key=rank)

    def given(self, replica: str, adapters: Sequence[str]) -> None:
        """An image in these adapters was given to the replica, which will hold them."""
        held = self._held.setdefault(replica, OrderedDict())
        self._uses += 1
        for name in adapters:
            held[name] = self._uses
            held.move_to_end(name)
        while len(held) > max(self._slots, len(adapters)):
            held.popitem(last=False)

    def holds(self, replica: str, adapters: Collection[str]) -> bool:
        """Whether the replica is believed to hold all of them."""
        held: Mapping[str, int] = self._held.get(replica, {})
        return all(name in held for name in adapters)

    def told(self, replica: str, resident: Collection[str]) -> None:
        """What a replica says it holds, where nothing was given to it by this process yet."""
        if replica not in self._held:
            self._held[replica] = OrderedDict.fromkeys(sorted(resident), 0)

    def keep_only(self, replicas: Collection[str]) -> None:
        """All others are gone."""
        for gone in self._held.keys() - set(replicas):
            del self._held[gone]
