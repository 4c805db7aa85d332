"""The one thread that uses the device, and its priority."""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

NICENESS = 5
"""On a CPU the arithmetic would otherwise compete with the event loop and the LoRA manager;
measured on two cores in docs/decisions.md."""

SWITCH_SECONDS = 0.0005
"""Longest time the device thread keeps Python's lock while another thread waits for it. It launches
kernels for half of a step; at Python's own 5 ms each turn of the event loop would wait that long,
and a call takes a dozen turns."""


def device_thread() -> ThreadPoolExecutor:
    """Returns an executor of one thread that yields to all others.

    Linux keeps niceness per thread, and the threads that PyTorch starts inherit it from the one
    that computes first. All computation must therefore run here, loading and warm-up included.
    """
    sys.setswitchinterval(SWITCH_SECONDS)
    return ThreadPoolExecutor(1, thread_name_prefix="device", initializer=_lower_priority)


def _lower_priority() -> None:
    # A container may forbid it; generating works at any priority.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
