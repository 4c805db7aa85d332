"""A second CUDA stream for work that runs beside the main stream's."""

from __future__ import annotations

import torch


class SideStream:
    """Runs part of the device work beside the rest; on a CPU the parts run one after another.

    Usage: `begin()`, launch the main work, `with side:` launch the other, `join()`. The side work
    may read everything launched before `begin`. Work launched after `join` may read what the side
    work wrote, and its memory may be freed.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._side is not None:
            self._begun, self._done = torch.cuda.Event(), torch.cuda.Event()
            self._context = torch.cuda.stream(self._side)

    def begin(self) -> None:
        """Marks the point in the main stream that the side work waits for."""
        if self._side is not None:
            self._begun.record(torch.cuda.current_stream(self._device))

    def __enter__(self) -> None:
        if self._side is not None:
            self._side.wait_event(self._begun)
            self._context.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._side is not None:
            self._done.record(self._side)
            self._context.__exit__(None, None, None)

    def join(self) -> None:
        """Makes the main stream wait for the side work."""
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_event(self._done)
