"""Chooses an implementation by device: Triton kernels on a GPU, PyTorch elsewhere.

Triton is installed on GPU machines only, so its modules are imported here when they are needed.
"""

from __future__ import annotations

import torch

from inference_server.model.kernels import folding, reference
from inference_server.model.kernels.folding import Folding
from inference_server.model.kernels.operations import Operations


def operations_on(device: torch.device) -> Operations:
    """Returns the operations between the products for a device."""
    if device.type != "cuda":
        return reference
    from inference_server.model.kernels import triton_ops

    return triton_ops


def folding_on(device: torch.device) -> Folding:
    """Returns how adapters are folded into the products on a device."""
    if device.type != "cuda":
        return Folding(folding.fold_, folding.reduce_, splits=False)
    from inference_server.model.kernels import triton_folding

    return Folding(triton_folding.fold_, triton_folding.reduce_, splits=True)
