"""The one thread that uses the device. Owns its priority; knows nothing of what runs on it."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

NICENESS = 5
"""On a CPU the arithmetic would otherwise take turns with the event loop and the LoRA manager;
measured on two cores in docs/decisions.md."""


def device_thread() -> ThreadPoolExecutor:
    """An executor of one thread that yields to everything else.

    Linux keeps niceness per thread, and the threads that PyTorch starts inherit it from the one
    that first computes: everything that computes has to run here, loading and warm-up too.
    """
    return ThreadPoolExecutor(1, thread_name_prefix="device", initializer=_be_nice)


def _be_nice() -> None:
    # A container may forbid it; then the pictures are drawn all the same.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
