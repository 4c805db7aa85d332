"""Which adapters may be evicted, and for which name: least recently used first.

The limit counts names, not slots. A name that is already in a slot may use the spare one for its
next version, so that an update never waits for the version it replaces.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from inference_server.adapters.slot_state import WRITING, Slot, SlotState
from wuliart_contract.adapter_names import same_name


class EvictionPolicy:
    """Selects the slot to free for an adapter that comes in.

    Args:
        slots: all slots of the segment.
        resident_limit: adapters that may be in slots at once.
        kept: names of adapters that are not evicted for another name.
    """

    def __init__(
        self, slots: Sequence[Slot], *, resident_limit: int, kept: Collection[str]
    ) -> None:
        self._slots = slots
        self.resident_limit = resident_limit
        self.kept = frozenset(map(same_name, kept))

    def below_limit(self, name: str) -> bool:
        """Returns True if `name` may take a free slot without another name leaving."""
        names = self._names(WRITING | {SlotState.READY})
        return name in names or len(names) < self.resident_limit

    def evictable(self, name: str) -> list[Slot]:
        """Returns the idle slots that may be freed for `name`; its own old version always may."""
        kept = self.kept - {same_name(name)}
        return [
            s
            for s in self._slots
            if s.state is SlotState.READY and s.pins == 0 and same_name(s.name) not in kept
        ]

    def replaceable(self, name: str) -> list[Slot]:
        """Returns the evictable slots whose eviction lowers the number of names.

        Evicting the old version of a name that is being written again does not.
        """
        writing = self._names(WRITING)
        return [s for s in self.evictable(name) if s.name not in writing]

    def can_reserve(self, name: str) -> bool:
        """Returns True if a slot for `name` is free or can be made free now."""
        if self.below_limit(name):
            return bool(self.evictable(name)) or any(s.state is SlotState.FREE for s in self._slots)
        return bool(self.replaceable(name))

    def _names(self, states: Collection[SlotState]) -> set[str]:
        return {s.name for s in self._slots if s.state in states}
