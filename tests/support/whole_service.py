"""Starts the whole service as processes of this machine, for end-to-end and browser tests.

    WULIART_FLEET=REPLICAS,SLOTS pytest tests/e2e/test_hot_swap.py tests/browser ...

runs the same tests against a fleet on Ray Serve instead of a single server. All tests of a session
share one fleet.
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
"""True if tests run against a fleet, which always serves the embedded model."""


def whole_service(folder: Path, model: Path = EMBEDDED_MODEL) -> Service:
    """Returns a service that is not started yet; its files are in `folder`."""
    if FLEET:
        return _Fleet(folder / "run", *_fleet())
    return Service(folder / "run", folder / "loras", server_arguments=["--model", str(model)])


class _Fleet(Service):
    """The session's fleet, in the role of one server and one manager.

    A page is started for each test.
    """

    def start_server(self) -> None:
        """Does nothing; the fleet is running."""

    def start_manager(self) -> None:
        """Does nothing; the fleet's managers are running."""

    def wait_until_ready(self, timeout: float = STARTUP_SECONDS) -> None:
        """Waits until the fleet lists only adapters of the folder, none of an earlier test."""
        super().wait_until_ready(timeout)
        deadline = time.monotonic() + timeout
        with Client(self.listen) as client:
            names = {
                path.relative_to(self.loras).with_suffix("").as_posix()
                for path in self.loras.rglob("*.safetensors")
            }
            while {adapter.name for adapter in client.adapters()} != names:
                assert time.monotonic() < deadline, (
                    "the fleet does not list the adapters of the folder"
                )
                time.sleep(0.1)

    def stop(self) -> dict[str, int]:
        """Stops the page and removes all adapters; the fleet stays running."""
        codes = super().stop()
        for path in self.loras.rglob("*.safetensors"):
            path.unlink()
        return codes


@functools.cache
def _fleet() -> tuple[Path, str]:
    """Starts the fleet once; returns its folder of adapters and its address."""
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
    # The fleet stops when its stdin closes.
    atexit.register(process.communicate)
    return loras, listen
