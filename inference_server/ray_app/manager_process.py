"""The LoRA manager of one replica, as the process that it always is.

Owns its start, its restarts and its end: it never outlives the replica, however that dies.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

log = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 0.5
STOP_SECONDS: Final = 5.0

_PR_SET_PDEATHSIG: Final = 1


class ManagerProcess:
    """Kept running until `stop`.

    Args:
        loras: the directory it watches; the same for all replicas, by a shared filesystem.
        runtime_dir: of the replica: its sockets, so that each manager serves one GPU.
        arguments: more of `wuliart-lora-manager`'s own.
    """

    def __init__(self, loras: Path, runtime_dir: Path, arguments: Sequence[str] = ()) -> None:
        self._command = (
            *(sys.executable, "-m", "lora_manager", "--loras", str(loras)),
            *("--runtime-dir", str(runtime_dir), *arguments),
        )
        self._keeping = asyncio.create_task(self._keep())
        self._process: asyncio.subprocess.Process | None = None

    async def stop(self) -> None:
        """Ends it, politely first."""
        self._keeping.cancel()
        with suppress(asyncio.CancelledError):
            await self._keeping
        process = self._process
        if process is None or process.returncode is not None:
            return
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()

    async def _keep(self) -> None:
        while True:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, preexec_fn=_die_with_parent
            )
            code = await self._process.wait()
            log.warning("the LoRA manager ended with exit code %d; starting it again", code)
            await asyncio.sleep(PAUSE_SECONDS)


def _die_with_parent() -> None:
    # A replica that is killed cannot end it; the kernel does.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
