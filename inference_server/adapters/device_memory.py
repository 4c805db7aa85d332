"""Device memory that a LoRA manager on the same GPU can map and write.

The allocation is made with CUDA's virtual memory management. PyTorch's allocator cannot export
memory, and moves and merges its own.
"""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor


class DeviceMemoryError(RuntimeError):
    """The driver or its bindings failed; the message has the call and its error."""


class DeviceMemory:
    """`nbytes` of zeroed device memory, mapped into this process.

    Args:
        nbytes: a multiple of 2 MiB, the granularity of physical memory.
        device: the GPU; its context is current in the calling thread.

    Raises:
        DeviceMemoryError: the memory cannot be allocated or exported.
    """

    def __init__(self, nbytes: int, device: torch.device) -> None:
        try:
            from cuda.bindings import driver
        except ImportError as error:
            raise DeviceMemoryError(f"the package cuda-bindings is missing: {error}") from None
        torch.zeros(1, device=device)  # CUDA's context, in this thread
        properties = driver.CUmemAllocationProp()
        properties.type = driver.CUmemAllocationType.CU_MEM_ALLOCATION_TYPE_PINNED
        properties.location.type = driver.CUmemLocationType.CU_MEM_LOCATION_TYPE_DEVICE
        properties.location.id = device.index or 0
        kind = driver.CUmemAllocationHandleType.CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR
        properties.requestedHandleTypes = kind
        access = driver.CUmemAccessDesc()
        access.location = properties.location
        access.flags = driver.CUmemAccess_flags.CU_MEM_ACCESS_FLAGS_PROT_READWRITE

        handle = done("cuMemCreate", driver.cuMemCreate(nbytes, properties, 0))
        address = done("cuMemAddressReserve", driver.cuMemAddressReserve(nbytes, 0, 0, 0))
        done("cuMemMap", driver.cuMemMap(address, nbytes, 0, handle, 0))
        done("cuMemSetAccess", driver.cuMemSetAccess(address, nbytes, [access], 1))
        exported = driver.cuMemExportToShareableHandle(handle, kind, 0)
        self.descriptor = int(done("cuMemExportToShareableHandle", exported))
        """File descriptor for other processes. Each one that maps it keeps the memory alive."""
        os.set_inheritable(self.descriptor, False)
        self.bytes: Tensor = torch.as_tensor(_Array(int(address), nbytes), device=device)
        """[nbytes] uint8."""
        self.bytes.zero_()
        self.uuid = bytes(done("cuDeviceGetUuid", driver.cuDeviceGetUuid(device.index or 0)).bytes)
        """UUID of the GPU, 16 bytes; device numbers differ between processes."""


class _Array:
    """A range of device memory, as `__cuda_array_interface__` describes it."""

    def __init__(self, address: int, nbytes: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (nbytes,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def done(call: str, result: tuple[Any, ...]) -> Any:
    """Returns the value of a driver call.

    Raises:
        DeviceMemoryError: the call failed.
    """
    error, *values = result
    if int(error) != 0:
        raise DeviceMemoryError(f"{call} failed: {error}")
    return values[0] if values else None
