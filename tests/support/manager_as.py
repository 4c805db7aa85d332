"""A LoRA manager, with a fake server, as another user of the machine.

    python -m tests.support.manager_as USER LORAS RUNTIME_DIR RESCAN_SECONDS

Prints a line of JSON whenever it changes: the content hash of each resident adapter, and why each
file that waits does so.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

from lora_manager.config import ManagerConfig
from lora_manager.manager import LoraManager
from tests.support.fake_segment_server import FakeSegmentServer


async def run(loras: Path, runtime_dir: Path, rescan_seconds: float) -> None:
    server = FakeSegmentServer(runtime_dir)
    await server.start()
    config = ManagerConfig(loras, runtime_dir, rescan_seconds=rescan_seconds)
    managing = asyncio.create_task(LoraManager(config).run())
    printed = ""
    while not managing.done():
        resident = {name: one.entry.content_hash for name, one in server.resident.items()}
        state = {"reports": bool(server.reports), "resident": resident, "waiting": server.waiting}
        line = json.dumps(state)
        if line != printed:
            print(line, flush=True)
            printed = line
        await asyncio.sleep(0.02)


if __name__ == "__main__":
    user, *arguments = sys.argv[1:]
    os.setgroups([])
    os.setgid(int(user))
    os.setuid(int(user))
    asyncio.run(run(Path(arguments[0]), Path(arguments[1]), float(arguments[2])))
