"""The one thread that uses the device. Owns its priority and its turns.

Knows nothing of what runs on it.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

NICENESS = 5
"""On a CPU the arithmetic would otherwise take turns with the event loop and the LoRA manager;
measured on two cores in docs/decisions.md."""

TURN_SECONDS = 0.0005
"""How long the device thread may keep Python's lock when others want it. It launches kernels for
half of a step; with Python's own 5 ms each turn of the event loop would wait that long, and a call
takes a dozen."""


def device_thread() -> ThreadPoolExecutor:
    """An executor of one thread that yields to everything else.

    Linux keeps niceness per thread, and the threads that PyTorch starts inherit it from the one
    that first computes: everything that computes has to run here, loading and warm-up too.
    """
    sys.setswitchinterval(TURN_SECONDS)
    return ThreadPoolExecutor(1, thread_name_prefix="device", initializer=_be_nice)


def _be_nice() -> None:
    # A container may forbid it; then the images are generated all the same.
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
