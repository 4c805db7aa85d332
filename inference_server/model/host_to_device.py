"""Asynchronous copies from host memory to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def copy_to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Starts a copy of a host tensor to the device without waiting for earlier device work.

    A copy from pageable memory would block the host until the stream is idle, so the tensor is
    pinned first.
    """
    if device.type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
