"""A request's adapters at exact versions. Knows nothing of how they became resident."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.records import Wanted
from inference_server.adapters.slots import Pin
from inference_server.model.low_rank import GatedAdapter


@dataclass(frozen=True, slots=True)
class Binding:
    """A request's adapters, fixed to exact versions until `AdapterStore.release`."""

    wanted: tuple[Wanted, ...]
    pins: tuple[Pin, ...]

    @property
    def gated(self) -> tuple[GatedAdapter, ...]:
        """For the engine; an adapter of weight 0 takes no part."""
        return tuple(
            GatedAdapter(pin.content.tensors, wanted.weight)
            for wanted, pin in zip(self.wanted, self.pins, strict=True)
            if wanted.weight != 0.0
        )
