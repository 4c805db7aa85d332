"""The public listener in a process of its own, so that its memory and its log can be measured.

    python -m tests.support.served_process [network options of wuliart-server] [--metrics HOST:PORT]

Prints a line "port N" (0 for a Unix socket) when it serves; its log goes to stderr. The engine is a
fake that generates at once. Ends when its standard input is closed.
"""

from __future__ import annotations

from wuliart_process import grpc_core_log  # noqa: F401 - before whatever imports grpc

# isort: split
import argparse
import asyncio
import logging
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from inference_server import network
from inference_server.logs import configure
from inference_server.service.exporter import start_exporter


async def _serve(arguments: list[str]) -> None:
    from tests.support.harness import name_model, running_server

    parser = argparse.ArgumentParser()
    network.add_arguments(parser)
    parser.add_argument("--metrics", default="127.0.0.1:0")
    options = vars(parser.parse_args(arguments))
    metrics = options.pop("metrics")
    settings = network.Network(**options)
    async with running_server(network=settings) as server:
        name_model(server, "fake")
        stop = start_exporter(metrics, lambda: (), settings.allowed_hosts)
        print("port", server.public.port, flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await asyncio.to_thread(stop)


@dataclass(frozen=True)
class Served:
    """A running process of this module."""

    port: int
    process: psutil.Process
    log: Path

    @property
    def said(self) -> str:
        """The log so far."""
        return self.log.read_text()

    @property
    def memory(self) -> int:
        """Resident memory of the process, in bytes."""
        return int(self.process.memory_info().rss)


@contextmanager
def served(*arguments: str) -> Iterator[Served]:
    """Runs the module with these arguments."""
    with tempfile.TemporaryDirectory(prefix="wuliart-") as folder:
        log = Path(folder) / "log"
        with (
            log.open("wb") as stderr,
            subprocess.Popen(
                [sys.executable, "-m", "tests.support.served_process", *arguments],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True,
            ) as process,
        ):  # fmt: skip
            assert process.stdout and process.stdin
            said = process.stdout.readline()
            assert said.startswith("port "), log.read_text()
            try:
                yield Served(int(said.split()[1]), psutil.Process(process.pid), log)
            finally:
                process.stdin.close()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()


if __name__ == "__main__":
    configure("INFO")
    logging.captureWarnings(True)
    asyncio.run(_serve(sys.argv[1:]))
