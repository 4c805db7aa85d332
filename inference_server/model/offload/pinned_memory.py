"""Host memory that the device's copy engine reads by itself. Owns its pinning and unpinning."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from inference_server.errors import ModelError


class _Pinned(mmap.mmap):
    """Memory that is unpinned before it goes: the system gives its addresses to others."""

    address = 0

    def __del__(self) -> None:
        if self.address:
            # At the end of the process CUDA may be gone, and all pinning with it.
            with suppress(Exception):
                torch.cuda.cudart().cudaHostUnregister(self.address)


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device: its copy is begun without waiting for what was begun before."""
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def host_memory(nbytes: int, device: torch.device) -> Tensor:
    """[nbytes] uint8, all zeros, that a GPU can read while the processor does something else.

    In huge pages where the system has them: to pin 18 GB in four million small ones takes a minute.
    PyTorch's own pinned memory is rounded up to a power of two.

    Raises:
        ModelError: the system does not let this process pin so much.
    """
    if device.type != "cuda" or not nbytes:
        return torch.zeros(nbytes, dtype=torch.uint8)
    memory = _Pinned(-1, nbytes)
    with suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
    tensor = torch.frombuffer(memory, dtype=torch.uint8)
    status = torch.cuda.cudart().cudaHostRegister(tensor.data_ptr(), nbytes, 0)
    if int(status) != 0:
        raise ModelError(
            f"cannot pin {nbytes / 1e9:.1f} GB of host memory ({status}): free some, "
            "raise the limit (ulimit -l), or give a larger --vram-budget"
        )
    memory.address = tensor.data_ptr()
    return tensor
