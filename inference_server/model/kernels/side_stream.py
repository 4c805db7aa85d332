"""Work that runs on the device beside other work. Owns a stream and its two meeting points."""

from __future__ import annotations

import torch


class Fork:
    """Two threads of device work that part and meet; on a CPU one follows the other.

    Usage: `part()`, begin the main work, `with fork:` begin the other, `join()`. The other work may
    read all that was begun before `part`; after `join` all that follows may read what it made, and
    its memory is safe to give back.

    Args:
        device: where.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._side = torch.cuda.Stream(device) if device.type == "cuda" else None
        if self._side is not None:
            self._parted, self._done = torch.cuda.Event(), torch.cuda.Event()
            self._context = torch.cuda.stream(self._side)

    def part(self) -> None:
        """From here on both may go their ways."""
        if self._side is not None:
            self._parted.record(torch.cuda.current_stream(self._device))

    def __enter__(self) -> None:
        if self._side is not None:
            self._side.wait_event(self._parted)
            self._context.__enter__()

    def __exit__(self, *_: object) -> None:
        if self._side is not None:
            self._done.record(self._side)
            self._context.__exit__(None, None, None)

    def join(self) -> None:
        """What follows waits for the other work."""
        if self._side is not None:
            torch.cuda.current_stream(self._device).wait_event(self._done)
