"""Receives the segment's file descriptor from the server, checks it, and maps it."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
from typing import Final

from lora_manager.device_mapping import DeviceMapping
from lora_manager.host_mapping import HostMapping
from lora_manager.segment_mapping import SegmentMapping

_HANDOVER_SECONDS: Final = 5.0


class HandoverError(Exception):
    """The descriptor socket did not hand over the segment it should have."""


async def receive_segment(
    connection: socket.socket, segment_bytes: int, gpu: bytes
) -> SegmentMapping:
    """Takes the segment's descriptor from the connection and maps it.

    The connection belongs to the mapping from now on; on failure the caller closes it. `gpu` is the
    UUID of the GPU whose memory it is, empty for host memory. Raises HandoverError if what comes is
    not one sealed descriptor of `segment_bytes` bytes, DeviceUnavailableError if that GPU's memory
    cannot be mapped here, OSError if the socket fails.
    """
    try:
        async with asyncio.timeout(_HANDOVER_SECONDS):
            await _readable(connection)
    except TimeoutError:
        raise HandoverError(f"no descriptor came within {_HANDOVER_SECONDS:.0f} seconds") from None
    message, descriptors, flags, _ = socket.recv_fds(connection, 1, 4)
    try:
        if flags & socket.MSG_CTRUNC and not descriptors:
            raise HandoverError("this process can open no more files; raise its limit (ulimit -n)")
        if len(message) != 1 or len(descriptors) != 1:
            raise HandoverError(
                f"the server sent {len(descriptors)} descriptors and {len(message)} bytes "
                "instead of one each"
            )
        if gpu:
            # Creating CUDA's context takes a while.
            return await asyncio.to_thread(
                DeviceMapping, descriptors[0], segment_bytes, connection, gpu
            )
        _check(descriptors[0], segment_bytes)
        return HostMapping(descriptors[0], segment_bytes, connection)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


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
