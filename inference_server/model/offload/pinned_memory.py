"""Host memory that the device's copy engine reads directly."""

from __future__ import annotations

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from inference_server.errors import ModelError


class _Pinned(mmap.mmap):
    """Anonymous memory that is unpinned before it is unmapped and its addresses are reused."""

    address = 0

    def __del__(self) -> None:
        if self.address:
            # At interpreter exit CUDA may already be gone, and the pinning with it.
            with suppress(Exception):
                torch.cuda.cudart().cudaHostUnregister(self.address)


def host_memory(nbytes: int, device: torch.device) -> Tensor:
    """Allocates zeroed host memory, pinned if the device is a GPU.

    Huge pages are requested, because pinning 18 GB in four million small pages takes a minute.
    PyTorch's own allocator rounds pinned memory up to a power of two, so it is not used.

    Returns:
        [nbytes] uint8.

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
