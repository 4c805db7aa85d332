"""The server with a stub engine, and samples of a process's memory, descriptors, and threads."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from benchmarks.report import Figure
from scripts.processes import Service, free_port

SAMPLE_SECONDS = 0.5

WARM_UP = 0.3
"""Share of a run after which nothing may grow."""


class StubService(Service):
    """A server with a stub engine, without a LoRA manager."""

    def start_server(self) -> None:
        """Starts the server without waiting for it."""
        arguments = ["--listen", self.listen, *self.server_arguments]
        self._start("server", "scripts.stub_server", arguments)


@contextmanager
def stub_service(*arguments: str) -> Iterator[tuple[str, psutil.Process]]:
    """Yields the address (TCP, so that each connection is a client) and the server process."""
    with tempfile.TemporaryDirectory(prefix="wuliart-stress-") as name:
        folder = Path(name)
        service = StubService(
            folder / "run",
            folder / "loras",
            listen=f"127.0.0.1:{free_port()}",
            server_arguments=["--log-level", "WARNING", *arguments],
        )
        service.start_server()
        try:
            service.wait_until_ready()
            yield service.listen, psutil.Process(service.processes["server"].pid)
            service.check()
        finally:
            service.stop()


@dataclass(frozen=True)
class Sample:
    """Memory in bytes, open descriptors, and threads of a process."""

    memory: int
    descriptors: int
    threads: int


class Gauge:
    """Samples a process for as long as the context lasts."""

    def __init__(self, process: psutil.Process, seconds: float = SAMPLE_SECONDS) -> None:
        self._process = process
        self._seconds = seconds
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.samples: list[Sample] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._over.wait(self._seconds):
            p = self._process
            with p.oneshot():
                self.samples.append(Sample(p.memory_info().rss, p.num_fds(), p.num_threads()))

    def _tenths(self) -> str:
        """Returns the median memory of each tenth of the run: a leak differs from a late peak."""
        n = len(self.samples)
        tenths = [self.samples[k * n // 10 : (k + 1) * n // 10] for k in range(10)]
        return " ".join(f"{statistics.median(s.memory for s in some) / 1e6:.0f}" for some in tenths)

    def figures(self, what: str, megabytes: float) -> list[Figure]:
        """Returns the growth after the warm-up.

        Memory is compared by its peaks; descriptors and threads come and go with each call, so
        theirs is the median of the last third against that of the second.
        """
        n = len(self.samples)
        if n < 10:
            return []
        before, after = self.samples[: int(WARM_UP * n)], self.samples[int(WARM_UP * n) :]
        warm = max(s.memory for s in before)
        growth = max(s.memory for s in after) - warm
        note = (
            f"peak after the first {WARM_UP:.0%} against peak in it, {warm / 1e6:.0f} MB; "
            f"medians of each tenth: {self._tenths()}"
        )
        found = [Figure(f"{what}: memory growth", growth / 1e6, "MB", megabytes, note=note)]
        middle, last = self.samples[n // 3 : 2 * n // 3], self.samples[2 * n // 3 :]
        for kind in ("descriptors", "threads"):
            was, now = (
                statistics.median(getattr(s, kind) for s in some) for some in (middle, last)
            )
            note = f"median of the last third against the second's, {was:.0f}"
            found.append(Figure(f"{what}: more {kind}", now - was, "", 0, note=note))
        return found


def share_of_a_core(process: psutil.Process, seconds: float) -> float:
    """Returns the percent of one core that a process uses during `seconds`."""
    began, before = time.monotonic(), process.cpu_times()
    time.sleep(seconds)
    after = process.cpu_times()
    used = after.user + after.system - before.user - before.system
    return 100 * float(used) / (time.monotonic() - began)


def be_nice(by: int) -> None:
    """Raises the niceness of this process, and of all that it starts."""
    os.nice(by)
