"""The memory that adapters are written to, mapped into this process.

One thread writes, so the memory is never unmapped while a copy runs.
"""

from __future__ import annotations

import asyncio
import socket
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray


class SegmentMapping(ABC):
    """The server's adapter segment, writable from here.

    Keeps the descriptor socket open: the server takes its closing as the writer's end.
    """

    def __init__(self, keep: socket.socket) -> None:
        self._keep = keep
        # One writer at a time, and close() has one thing to wait for.
        self._writer = ThreadPoolExecutor(1, "segment-writer")

    async def write(
        self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]
    ) -> bool:
        """Copy `data` (uint8) to `offset` in a thread; returns whether `may_write` allowed it.

        `may_write` is called in the thread, right before the first byte. When this method
        returns, the bytes are there.
        """
        loop = asyncio.get_running_loop()
        copy = loop.run_in_executor(self._writer, self._write, offset, data, may_write)
        # The thread cannot be stopped: a cancelled caller leaves it to close() to wait.
        return await asyncio.shield(copy)

    async def close(self) -> None:
        """Wait for a copy under way, unmap, and let the server know."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._unmap)
        self._writer.shutdown(wait=False)
        self._keep.close()

    @abstractmethod
    def _write(self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]) -> bool:
        """On the thread; False too once it is unmapped."""

    @abstractmethod
    def _unmap(self) -> None:
        """On the thread."""
