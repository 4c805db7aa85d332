"""A request's adapters at exact versions."""

from __future__ import annotations

from dataclasses import dataclass

from inference_server.adapters.records import AdapterWeight, Skipped
from inference_server.adapters.slot_state import Pin
from inference_server.model.kernels.low_rank import GatedAdapter


@dataclass(frozen=True, slots=True)
class Binding:
    """A request's adapters, fixed to exact versions until `Binder.release`."""

    adapters: tuple[AdapterWeight, ...]
    """The adapters that the image is generated with."""
    pins: tuple[Pin, ...]
    """One for each of `adapters`, in the same order."""
    skipped: tuple[Skipped, ...] = ()
    """Adapters of the request that cannot be used."""

    @property
    def gated(self) -> tuple[GatedAdapter, ...]:
        """The adapters as the engine takes them; one of weight 0 is left out."""
        return tuple(
            GatedAdapter(pin.content.tensors, adapter.weight)
            for adapter, pin in zip(self.adapters, self.pins, strict=True)
            if adapter.weight != 0.0
        )
