"""The server's adapter segment in shared host memory, mapped into this process."""

from __future__ import annotations

import mmap
import socket
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from lora_manager.segment_mapping import SegmentMapping


class HostMapping(SegmentMapping):
    """Shared host memory."""

    def __init__(self, descriptor: int, segment_bytes: int, keep: socket.socket) -> None:
        super().__init__(keep)
        self._map = mmap.mmap(descriptor, segment_bytes, mmap.MAP_SHARED)
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(self._map, np.uint8)

    def _write(self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]) -> bool:
        if self._bytes is None or not may_write():
            return False
        np.copyto(self._bytes[offset : offset + data.size], data)
        return True

    def _unmap(self) -> None:
        self._bytes = None
        self._map.close()
