"""Forward and backward of one batch, captured as a CUDA graph for each shape and replayed.

Owns the graphs. Walks of four steps through compiled blocks with adapters are thousands of small
kernels: launched one by one they took 235 ms a batch, of which the GPU worked a fifth.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

Parts = dict[str, Tensor]
Losses = Callable[..., Parts]


def backward(parameters: Sequence[Tensor], losses: Losses, batch: Sequence[Tensor]) -> Parts:
    """Fills the parameters' gradients, which must be there, and returns the losses."""
    device = parameters[0].device
    torch._foreach_zero_([parameter.grad for parameter in parameters])
    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        parts = losses(*batch)
    torch.stack(list(parts.values())).sum().backward()
    return {name: part.detach() for name, part in parts.items()}


class _Captured(NamedTuple):
    graph: torch.cuda.CUDAGraph
    batch: list[Tensor]
    parts: Parts


class Replay:
    """Like `backward`, from graphs.

    Args:
        parameters: what is trained; the gradients' memory must stay where it is.
        losses: works on the device alone: nothing in it may wait for the GPU.
    """

    def __init__(self, parameters: Sequence[Tensor], losses: Losses) -> None:
        self._parameters, self._losses = parameters, losses
        self._captured: dict[tuple[torch.Size, ...], _Captured] = {}
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, batch: Sequence[Tensor]) -> Parts:
        """The losses stay valid until the next call."""
        shapes = tuple(tensor.shape for tensor in batch)
        if shapes not in self._captured:
            self._captured[shapes] = self._capture(batch)
        captured = self._captured[shapes]
        for own, new in zip(captured.batch, batch, strict=True):
            own.copy_(new)
        captured.graph.replay()
        return captured.parts

    def _capture(self, batch: Sequence[Tensor]) -> _Captured:
        own = [tensor.clone() for tensor in batch]
        # Once outside: what is compiled, planned or allocated at first use must not be captured.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            backward(self._parameters, self._losses, own)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            parts = backward(self._parameters, self._losses, own)
        return _Captured(graph, own, parts)
