"""The server's adapter segment, mapped into this process.

Owns the hand-over of the file descriptor and the mapping's life: it is never unmapped while a
copy runs. Knows nothing of slots; whoever writes says where.
"""

from __future__ import annotations

import asyncio
import fcntl
import mmap
import os
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from lora_manager.device_mapping import DeviceMapping

_HANDOVER_SECONDS: Final = 5.0


class HandoverError(Exception):
    """The descriptor socket did not hand over the segment it should have."""


class Mapping(Protocol):
    """Where adapters are written to."""

    async def write(
        self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]
    ) -> bool:
        """See `SegmentMapping.write`."""

    async def close(self) -> None:
        """See `SegmentMapping.close`."""


class SegmentMapping:
    """A shared, writable mapping of the segment.

    Keeps the descriptor socket open: the server takes its closing as the writer's end.
    """

    def __init__(self, descriptor: int, segment_bytes: int, keep: socket.socket) -> None:
        self._keep = keep
        self._map = mmap.mmap(descriptor, segment_bytes, mmap.MAP_SHARED)
        self._bytes: NDArray[np.uint8] | None = np.frombuffer(self._map, np.uint8)
        # One writer at a time, and close() has one thing to wait for.
        self._writer = ThreadPoolExecutor(1, "segment-writer")

    async def write(
        self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]
    ) -> bool:
        """Copy `data` (uint8) to `offset` in a thread; returns whether `may_write` allowed it.

        `may_write` is asked in the thread, right before the first byte.
        """
        loop = asyncio.get_running_loop()
        copy = loop.run_in_executor(self._writer, self._write, offset, data, may_write)
        # The thread cannot be stopped: a cancelled caller leaves it to close() to wait.
        return await asyncio.shield(copy)

    def _write(self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]) -> bool:
        if self._bytes is None or not may_write():
            return False
        np.copyto(self._bytes[offset : offset + data.size], data)
        return True

    async def close(self) -> None:
        """Wait for a copy under way, unmap, and let the server know."""
        await asyncio.get_running_loop().run_in_executor(self._writer, self._unmap)
        self._writer.shutdown(wait=False)
        self._keep.close()

    def _unmap(self) -> None:
        self._bytes = None
        self._map.close()


async def receive_segment(path: str, token: bytes, segment_bytes: int, gpu: bytes) -> Mapping:
    """Fetch the segment's descriptor over the Unix socket at `path` and map it.

    `gpu` is the UUID of the GPU whose memory it is, empty for host memory. Raises HandoverError if
    what comes is not one sealed descriptor of `segment_bytes` bytes, DeviceUnavailableError if that
    GPU's memory cannot be mapped here, OSError if the socket fails.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.setblocking(False)
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_HANDOVER_SECONDS):
            await loop.sock_connect(connection, path)
            await loop.sock_sendall(connection, token)
            await _readable(connection)
        message, descriptors, _, _ = socket.recv_fds(connection, 1, 4)
        try:
            if len(message) != 1 or len(descriptors) != 1:
                raise HandoverError(
                    f"the server sent {len(descriptors)} descriptors and {len(message)} bytes "
                    "instead of one each; does the token fit?"
                )
            if gpu:
                # Creating CUDA's context takes a while.
                return await asyncio.to_thread(
                    DeviceMapping, descriptors[0], segment_bytes, connection, gpu
                )
            _check(descriptors[0], segment_bytes)
            return SegmentMapping(descriptors[0], segment_bytes, connection)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
    except TimeoutError:
        connection.close()
        raise HandoverError(f"no descriptor came within {_HANDOVER_SECONDS:.0f} seconds") from None
    except BaseException:
        connection.close()
        raise


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


def _check(descriptor: int, segment_bytes: int) -> None:
    size = os.fstat(descriptor).st_size
    if size != segment_bytes:
        raise HandoverError(f"the segment has {size} bytes instead of {segment_bytes}")
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
    except OSError:
        raise HandoverError("the segment is no sealed memory file") from None
    if not (seals & fcntl.F_SEAL_SHRINK and seals & fcntl.F_SEAL_GROW):
        # Without the seals a shrunken segment would kill this process with SIGBUS.
        raise HandoverError("the segment is not sealed against shrinking and growing")
