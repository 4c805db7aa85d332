"""A request's adapters at exact versions. Knows nothing of how they became resident."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.records import AdapterWeight, Skipped
from inference_server.adapters.slots import Pin
from inference_server.model.kernels.low_rank import GatedAdapter


@dataclass(frozen=True, slots=True)
class Binding:
    """A request's adapters, fixed to exact versions until `Binder.release`.

    `pins` belong to `wanted`, one each; what was asked for and cannot be used is in `skipped`.
    """

    wanted: tuple[AdapterWeight, ...]
    pins: tuple[Pin, ...]
    skipped: tuple[Skipped, ...] = ()

    @property
    def gated(self) -> tuple[GatedAdapter, ...]:
        """For the engine; an adapter of weight 0 takes no part."""
        return tuple(
            GatedAdapter(pin.content.tensors, wanted.weight)
            for wanted, pin in zip(self.wanted, self.pins, strict=True)
            if wanted.weight != 0.0
        )
