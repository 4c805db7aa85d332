"""Training on several GPUs of one machine: processes of `torchrun` that average their gradients.

A run that was started without `torchrun` is a team of one, and nothing is communicated. Where there
is no GPU, the processes share the CPU.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Sequence

import torch
from torch import Tensor, distributed


class Team:
    """The processes of one run.

    Attributes:
        rank: Number of this process.
        size: Number of processes.
    """

    def __init__(self) -> None:
        self.rank, self.size = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        if self.size > 1 and not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(self.rank)
                distributed.init_process_group("nccl")
            else:
                distributed.init_process_group("gloo")
                # Its threads would otherwise abort the process at its end, now and then.
                atexit.register(distributed.destroy_process_group)

    @property
    def leads(self) -> bool:
        """True in the process that prints and saves."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        """Each process's share of the CPU cores, at least one."""
        return max(1, len(os.sched_getaffinity(0)) // self.size)

    def average(self, tensors: Sequence[Tensor], value: float = 0.0) -> float:
        """Averages tensors over the processes, in place; waits until all processes call it.

        Args:
            tensors: Same shapes in all processes.
            value: A number that goes with them, such as the time spent: what is decided by the
                average is decided alike in all processes.

        Returns:
            The average of `value`.
        """
        if self.size == 1:
            return value
        flat = torch.cat(
            [*(tensor.flatten().float() for tensor in tensors), tensors[0].new_tensor([value])]
        )
        distributed.all_reduce(flat)
        flat /= self.size
        parts = flat[:-1].split([tensor.numel() for tensor in tensors])
        for tensor, part in zip(tensors, parts, strict=True):
            tensor.copy_(part.view_as(tensor))
        return float(flat[-1])

    def seed(self, seed: int) -> None:
        """Seeds torch differently in each process; weights are initialised before."""
        torch.manual_seed(seed + 1009 * self.rank)
