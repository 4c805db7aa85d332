"""Checks that a process gives back descriptors and threads when a fault is over."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

from tests.chaos.world import PATIENCE, World


def _held(process: psutil.Process) -> tuple[int, int]:
    return process.num_fds(), process.num_threads()


@contextmanager
def nothing_leaks(world: World, *names: str, threads: int = 0) -> Iterator[None]:
    """The processes hold no more afterwards than before.

    Args:
        world: whose processes they are.
        names: of the processes.
        threads: how many more are no leak: executors make theirs when they are first needed.
    """
    processes = {name: psutil.Process(world.service.processes[name].pid) for name in names}
    before = {name: _held(process) for name, process in processes.items()}
    yield
    deadline = time.monotonic() + PATIENCE
    for name, process in processes.items():
        descriptors, running = before[name]
        while (now := _held(process))[0] > descriptors or now[1] > running + threads:
            assert time.monotonic() < deadline, f"{name}: {before[name]} before, {now} after"
            time.sleep(0.05)
