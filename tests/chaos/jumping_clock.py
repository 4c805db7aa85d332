"""A program of the service whose wall clock can be set while it runs.

    python -m tests.chaos.jumping_clock MODULE OFFSET ...

`OFFSET` is a file of seconds, added to the time of day as soon as it is there. The monotonic clock
goes on, as it does when a machine's time is set. Everything after it is the program's own.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from types import SimpleNamespace

from grpc.aio import _utils


def run() -> None:
    module, file = sys.argv[1], Path(sys.argv[2])
    sys.argv[1:3] = []
    real, real_seconds = time.time_ns, time.time
    # gRPC's core reads the system's clock, not this one: a deadline between two clocks is none.
    vars(_utils)["time"] = SimpleNamespace(time=real_seconds)

    def time_ns() -> int:
        try:
            return real() + int(float(file.read_text()) * 1e9)
        except FileNotFoundError:
            return real()

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    run()
