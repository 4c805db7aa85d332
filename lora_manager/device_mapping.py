"""The server's adapter segment on its GPU, mapped into this process.

Bytes go through pinned memory to the copy engine. No kernel is launched: kernels of two processes
take turns on a GPU, while copies run beside them.
"""

from __future__ import annotations

import ctypes
import socket
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from lora_manager.segment_mapping import SegmentMapping

PIECE_BYTES: Final = 16 << 20
"""Copied into pinned memory while the one before is on its way to the device."""


class DeviceUnavailableError(Exception):
    """The server's device memory cannot be mapped here; the message says why."""


class DeviceMapping(SegmentMapping):
    """Memory of the GPU.

    Args:
        descriptor: of the allocation; may be closed afterwards.
        segment_bytes: of the segment.
        keep: the server takes its closing as the writer's end.
        uuid: of the GPU, 16 bytes.

    Raises:
        DeviceUnavailableError: there is no CUDA here, or not that GPU.
    """

    def __init__(
        self, descriptor: int, segment_bytes: int, keep: socket.socket, uuid: bytes
    ) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise DeviceUnavailableError(f"the package cuda-bindings is missing: {error}") from None
        self._driver = driver
        super().__init__(keep)
        self._nbytes = segment_bytes
        self._mapped = False
        # On the thread that writes: CUDA's context is current there alone.
        try:
            self._writer.submit(self._open, descriptor, uuid).result()
        except BaseException:
            self._writer.shutdown(wait=False)
            raise

    def _open(self, descriptor: int, uuid: bytes) -> None:
        driver = self._driver
        _done("cuInit", driver.cuInit(0))
        device = self._find(uuid)
        self._device = device
        context = _done("cuDevicePrimaryCtxRetain", driver.cuDevicePrimaryCtxRetain(device))
        _done("cuCtxSetCurrent", driver.cuCtxSetCurrent(context))
        kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        imported = driver.cuMemImportFromShareableHandle(descriptor, kind)
        handle = _done("cuMemImportFromShareableHandle", imported)
        access = driver.CUmemAccessDesc()
        access.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        access.location.id = int(device)
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE
        n = self._nbytes
        self._address = _done("cuMemAddressReserve", driver.cuMemAddressReserve(n, 0, 0, 0))
        _done("cuMemMap", driver.cuMemMap(self._address, n, 0, handle, 0))
        _done("cuMemRelease", driver.cuMemRelease(handle))  # the mapping keeps it
        _done("cuMemSetAccess", driver.cuMemSetAccess(self._address, n, [access], 1))
        self._stream = _done("cuStreamCreate", driver.cuStreamCreate(1))
        self._pieces = [_pinned(driver) for _ in range(2)]
        self._sent = [_done("cuEventCreate", driver.cuEventCreate(2)) for _ in range(2)]
        self._mapped = True

    def _find(self, uuid: bytes) -> Any:
        """The device of that UUID among those this process may see."""
        driver = self._driver
        count = _done("cuDeviceGetCount", driver.cuDeviceGetCount())
        for number in range(count):
            device = _done("cuDeviceGet", driver.cuDeviceGet(number))
            if bytes(_done("cuDeviceGetUuid", driver.cuDeviceGetUuid(device)).bytes) == uuid:
                return device
        raise DeviceUnavailableError(
            f"the server's GPU {uuid.hex()} is none of the {count} that this process sees"
        )

    def _write(self, offset: int, data: NDArray[np.uint8], may_write: Callable[[], bool]) -> bool:
        if not self._mapped or not may_write():
            return False
        driver = self._driver
        for number, begin in enumerate(range(0, data.size, PIECE_BYTES)):
            piece = data[begin : begin + PIECE_BYTES]
            address, pinned = self._pieces[number % 2]
            sent = self._sent[number % 2]
            _done("cuEventSynchronize", driver.cuEventSynchronize(sent))
            np.copyto(pinned[: piece.size], piece)
            target = int(self._address) + offset + begin
            copied = driver.cuMemcpyHtoDAsync(target, address, piece.size, self._stream)
            _done("cuMemcpyHtoDAsync", copied)
            _done("cuEventRecord", driver.cuEventRecord(sent, self._stream))
        _done("cuStreamSynchronize", driver.cuStreamSynchronize(self._stream))
        return True

    def _unmap(self) -> None:
        if not self._mapped:
            return
        self._mapped = False
        driver = self._driver
        _done("cuMemUnmap", driver.cuMemUnmap(self._address, self._nbytes))
        _done("cuMemAddressFree", driver.cuMemAddressFree(self._address, self._nbytes))
        for address, _ in self._pieces:
            _done("cuMemFreeHost", driver.cuMemFreeHost(address))
        _done("cuDevicePrimaryCtxRelease", driver.cuDevicePrimaryCtxRelease(self._device))


def _pinned(driver: Any) -> tuple[int, NDArray[np.uint8]]:
    """Memory that the device's copy engine reads by itself: its address, and as bytes."""
    address = int(_done("cuMemAllocHost", driver.cuMemAllocHost(PIECE_BYTES)))
    buffer = memoryview((ctypes.c_uint8 * PIECE_BYTES).from_address(address))
    return address, np.frombuffer(buffer, np.uint8)


def _done(call: str, result: tuple[Any, ...]) -> Any:
    error, *values = result
    if int(error) != 0:
        raise DeviceUnavailableError(f"{call} failed: {error}")
    return values[0] if values else None
