"""What the scheduler needs of its neighbours. Owns the two protocols and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from inference_server.adapters.binding import Binding
from inference_server.adapters.records import AdapterWeight


class ImageEngine(Protocol):
    """What the scheduler needs of the engine; see `engine.Engine`. Only the device thread calls."""

    def encode(self, prompt: str) -> Any:
        """The prompt's embedding, with `tokens` and `tokens_ignored`."""

    def begin(self, prompt: Any, seed: int, steps: int, adapters: Sequence[Any]) -> Any:
        """An image at its noise."""

    def encoded(self, prompt: str) -> bool:
        """Whether `encode` has nothing to do."""

    def step(self, drawings: Sequence[Any], prompts: Sequence[str]) -> None:
        """Runs the next step of every image, and encodes prompts beside it."""

    def check(self, drawing: Any) -> None:
        """RequestError NON_FINITE if the last step broke the image."""

    def preview(self, drawing: Any) -> Any:
        """[h, w, 3] uint8."""

    def decode(self, drawing: Any) -> Any:
        """[1024, 1024, 3] uint8."""

    def rest(self) -> None:
        """Gives back what only generating needs."""


class AdapterBinder(Protocol):
    """What the scheduler needs of the adapters; see `adapters.Binder`."""

    def check(self, wanted: Sequence[AdapterWeight]) -> None:
        """RequestError for what can be said at once to be impossible."""

    def try_bind(self, wanted: Sequence[AdapterWeight]) -> Binding | None:
        """Pins exact versions if all are resident; None otherwise, whatever the reason."""

    async def bind(self, wanted: Sequence[AdapterWeight]) -> Binding:
        """Pins exact versions, having absent ones loaded first; RequestError if that fails."""

    def release(self, binding: Binding) -> None:
        """Gives them back."""
