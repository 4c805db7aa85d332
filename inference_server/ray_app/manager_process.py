"""The LoRA manager of one replica, as the process that it always is.

Owns its start, its restarts and its end: it never outlives the replica, however that dies.
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

PAUSE_SECONDS: Final = 0.5
STOP_SECONDS: Final = 5.0

_LEASHED: Final = """
import ctypes, runpy, signal, sys
# 1: PR_SET_PDEATHSIG. A replica that is killed cannot end it; the kernel does.
ctypes.CDLL(None).prctl(1, signal.SIGTERM)
sys.argv[0] = "wuliart-lora-manager"
runpy.run_module("lora_manager", run_name="__main__")
"""


class ManagerProcess:
    """Kept running until `stop`. To be made on the replica's event loop.

    Args:
        loras: the directory it watches; the same for all replicas, by a shared filesystem.
        runtime_dir: of the replica: its sockets, so that each manager serves one GPU.
        arguments: more of `wuliart-lora-manager`'s own.
    """

    def __init__(self, loras: Path, runtime_dir: Path, arguments: Sequence[str] = ()) -> None:
        folders = ("--loras", str(loras), "--runtime-dir", str(runtime_dir))
        self._command = (sys.executable, "-c", _LEASHED, *folders, *arguments)
        self._process = self._start()
        self._keeping = asyncio.create_task(self._keep())

    def _start(self) -> subprocess.Popen[bytes]:
        # On this thread, not on a worker's: the kernel takes the end of a thread for its parent's.
        return subprocess.Popen(self._command)

    async def _keep(self) -> None:
        while True:
            code = await asyncio.to_thread(self._process.wait)
            log.warning("the LoRA manager ended with exit code %d; starting it again", code)
            await asyncio.sleep(PAUSE_SECONDS)
            self._process = self._start()

    async def stop(self) -> None:
        """Ends it, politely first."""
        self._keeping.cancel()
        self._process.terminate()
        with suppress(asyncio.CancelledError):
            await self._keeping
        try:
            await asyncio.to_thread(self._process.wait, STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)
