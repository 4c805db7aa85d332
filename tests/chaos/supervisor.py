"""Restarts processes that have ended, as systemd does, and disturbs them in three ways."""

from __future__ import annotations

import signal
import threading
import time
from types import TracebackType
from typing import Self

from tests.chaos.world import World

PAUSE = 0.1
"""Seconds before a process is started again; systemd's own default."""

NAMES = ("server", "manager", "web")


class Supervisor:
    """Use as a context manager, with all three running; inside, they are kept running."""

    def __init__(self, world: World, web_port: int) -> None:
        self._service = world.service
        self._port = web_port
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self.restarts = 0
        self.drains: list[float] = []
        """Seconds from SIGTERM to the end of a process, of each restart."""

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

    def start(self, name: str) -> None:
        """As it was started the first time."""
        match name:
            case "server":
                self._service.start_server()
            case "manager":
                self._service.start_manager()
            case "web":
                self._service.start_web(self._port)

    def _watch(self) -> None:
        while not self._over.wait(PAUSE):
            for name in NAMES:
                if self._service.processes[name].poll() is not None:
                    self.restarts += 1
                    self.start(name)

    # -- faults: each returns when it is over, with the moment from which recovery counts -----

    def kill(self, name: str) -> float:
        """As a crash, or the kernel when memory is short."""
        process = self._service.processes[name]
        process.kill()
        process.wait()
        return time.monotonic()

    def restart(self, name: str) -> float:
        """As an operator does it: what is being generated is finished first, see `drains`."""
        process = self._service.processes[name]
        began = time.monotonic()
        process.terminate()
        process.wait()
        self.drains.append(time.monotonic() - began)
        return time.monotonic()

    def stop(self, name: str, seconds: float) -> float:
        """As a machine that stands still for a while."""
        process = self._service.processes[name]
        process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        process.send_signal(signal.SIGCONT)
        return time.monotonic()
