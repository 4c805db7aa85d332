"""The service with a fake engine, in a process that logs as `wuliart-server` does.

    python -m tests.support.logging_server

Prints its address, then serves until SIGTERM. For tests of its standard error.
"""

from __future__ import annotations

import asyncio
import signal

from inference_server.logs import configure
from tests.support.harness import running_server


async def _serve() -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with running_server() as server:
        print(server.target, flush=True)
        await stopping.wait()


if __name__ == "__main__":
    configure("INFO")
    asyncio.run(_serve())
