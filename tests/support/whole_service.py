"""The whole service for the tests that look at it from outside: processes of this machine.

    WULIART_FLEET=REPLICAS,SLOTS pytest tests/e2e/test_hot_swap.py tests/browser/test_generating.py ...

asks a fleet on Ray Serve instead of a single server; the tests are the same. Owns that choice, and
the one fleet of a session.
"""

from __future__ import annotations

import atexit
import functools
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from inference_server.config import EMBEDDED_MODEL
from scripts.processes import STARTUP_SECONDS, Service
from wuliart_client import Client

FLEET = bool(os.environ.get("WULIART_FLEET"))
"""A fleet has the embedded model, whatever a test would like."""


def whole_service(folder: Path, model: Path = EMBEDDED_MODEL) -> Service:
    """Not started yet; its files are in `folder`."""
    if FLEET:
        return _Fleet(folder / "run", *_fleet())
    return Service(folder / "run", folder / "loras", server_arguments=["--model", str(model)])


class _Fleet(Service):
    """The session's fleet, as if it were one server and one manager; a page is its own."""

    def start_server(self) -> None:
        """It runs already."""

    def start_manager(self) -> None:
        """They run already."""

    def wait_until_ready(self, timeout: float = STARTUP_SECONDS) -> None:
        """Until nothing is listed that another test has left."""
        super().wait_until_ready(timeout)
        deadline = time.monotonic() + timeout
        with Client(self.listen) as client:
            names = {
                path.relative_to(self.loras).with_suffix("").as_posix()
                for path in self.loras.rglob("*.safetensors")
            }
            while {adapter.name for adapter in client.adapters()} != names:
                assert time.monotonic() < deadline, (
                    "the adapters listed are not those of the folder"
                )
                time.sleep(0.1)

    def stop(self) -> dict[str, int]:
        """Leaves it as it was found, without adapters."""
        codes = super().stop()
        for path in self.loras.rglob("*.safetensors"):
            path.unlink()
        return codes


@functools.cache
def _fleet() -> tuple[Path, str]:
    """Started once; its folder of adapters, and where it listens."""
    replicas, slots = os.environ["WULIART_FLEET"].split(",")
    loras = Path(tempfile.mkdtemp(prefix="wuliart-fleet-"))
    process = subprocess.Popen(
        [sys.executable, "-m", "scripts.local_fleet", str(loras), replicas, slots],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    listen = process.stdout.readline().strip()
    assert listen, "the fleet did not start"
    # It ends at the end of its input.
    atexit.register(process.communicate)
    return loras, listen
