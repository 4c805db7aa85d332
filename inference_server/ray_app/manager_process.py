"""Runs the LoRA manager of one replica as a child process, and restarts it when it ends.

The manager never outlives the replica, however the replica ends.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

RESTART_SECONDS: Final = 0.5
STOP_SECONDS: Final = 5.0

_BOUND_TO_PARENT: Final = """
import ctypes, runpy, signal, sys
# 1: PR_SET_PDEATHSIG. The kernel ends the manager of a replica that was killed.
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
sys.argv[0] = "wuliart-lora-manager"
runpy.run_module("lora_manager", run_name="__main__")
"""


class ManagerProcess:
    """A LoRA manager that runs until `stop`; to be created on the replica's event loop.

    Args:
        loras: directory to watch; shared by all replicas through a file system.
        runtime_dir: directory of this replica's sockets, so that each manager serves one GPU.
        arguments: further options of `wuliart-lora-manager`.
    """

    def __init__(self, loras: Path, runtime_dir: Path, arguments: Sequence[str] = ()) -> None:
        folders = ("--loras", str(loras), "--runtime-dir", str(runtime_dir))
        self._command = (sys.executable, "-c", _BOUND_TO_PARENT, *folders, *arguments)
        self._process = self._start()
        self._restarting = asyncio.create_task(self._restart())

    def _start(self) -> subprocess.Popen[bytes]:
        # On this thread, not on a worker's: PR_SET_PDEATHSIG fires when the parent thread ends.
        return subprocess.Popen(self._command)

    async def _restart(self) -> None:
        while True:
            code = await asyncio.to_thread(self._process.wait)
            log.warning("the LoRA manager ended with exit code %d; starting it again", code)
            await asyncio.sleep(RESTART_SECONDS)
            self._process = self._start()

    async def stop(self) -> None:
        """Terminates the manager, and kills it if it has not ended after 5 s."""
        self._restarting.cancel()
        self._process.terminate()
        with suppress(asyncio.CancelledError):
            await self._restarting
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
