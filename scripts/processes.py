"""Starts server, LoRA manager and web page as processes, and stops them again.

Used by `make up`, `make demo`, the benchmarks and the end-to-end tests.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

STARTUP_SECONDS = 180.0
STOP_SECONDS = 40.0

_NO_PROXY = [("grpc.enable_http_proxy", 0)]
"""The processes run on this machine: a proxy named by the environment does not apply."""


def free_port() -> int:
    """Returns a TCP port of 127.0.0.1 that no process listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def stolen_ticks() -> int:
    """Returns the time the hypervisor has withheld from this machine's processors, in 10 ms ticks.

    Source: the eighth counter of /proc/stat's first line (proc_stat(5)).
    """
    return int(Path("/proc/stat").read_text().split(maxsplit=9)[8])


class ProcessDiedError(RuntimeError):
    """A process ended by itself. The message holds the end of its log."""


@dataclass
class Service:
    """The processes that share one folder of runtime files.

    Args:
        runtime_dir: folder of the sockets, and of the logs unless `inherit_output`.
        loras: the folder the manager watches.
        listen: the server's address; by default a socket in `runtime_dir`.
    """

    runtime_dir: Path
    loras: Path
    listen: str = ""
    server_arguments: Sequence[str] = ()
    manager_arguments: Sequence[str] = ()
    inherit_output: bool = False
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.loras.mkdir(parents=True, exist_ok=True)
        self.listen = self.listen or f"unix:{self.runtime_dir}/public.sock"

    def start_server(self) -> None:
        """Starts the server without waiting for it."""
        self._start(
            "server",
            "inference_server",
            ["--listen", self.listen, *self.server_arguments],
        )

    def start_manager(self) -> None:
        """Starts the manager without waiting for it."""
        self._start("manager", "lora_manager", ["--loras", self.loras, *self.manager_arguments])

    def start_web(self, port: int) -> None:
        """Starts the web page without waiting for it."""
        self._run("web", "wuliart_web", ["--server", self.listen, "--port", str(port)])

    def _start(self, name: str, module: str, arguments: Sequence[str | Path]) -> None:
        self._run(name, module, ["--runtime-dir", self.runtime_dir, *arguments])

    def _run(self, name: str, module: str, arguments: Sequence[str | Path]) -> None:
        command = [sys.executable, "-m", module, *arguments]
        output: IO[bytes] | None = None if self.inherit_output else self.log(name).open("ab")
        # In a session of its own, so that Ctrl-C reaches only the parent, which stops all in order.
        self.processes[name] = subprocess.Popen(
            command, stdout=output, stderr=output, start_new_session=True
        )
        if output is not None:
            output.close()

    def log(self, name: str) -> Path:
        """Returns the file of a process's output."""
        return self.runtime_dir / f"{name}.log"

    def wait_until_ready(self, timeout: float = STARTUP_SECONDS) -> None:
        """Waits until the server's health says SERVING.

        Raises:
            ProcessDiedError: a process ended instead.
            TimeoutError: the server was not ready in time.
        """
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.check()
            with grpc.insecure_channel(self.listen, _NO_PROXY) as channel:
                try:
                    reply = health_pb2_grpc.HealthStub(channel).Check(  # type: ignore[attr-defined]
                        health_pb2.HealthCheckRequest(), timeout=1.0
                    )
                    if reply.status == health_pb2.HealthCheckResponse.SERVING:
                        return
                except grpc.RpcError:
                    pass
            time.sleep(0.1)
        raise TimeoutError(f"the server was not ready within {timeout:.0f} s")

    def check(self) -> None:
        """Raises ProcessDiedError if a process ended by itself."""
        for name, process in self.processes.items():
            if (code := process.poll()) is not None:
                log = self.log(name)
                tail = log.read_text(errors="replace")[-2000:] if log.exists() else ""
                raise ProcessDiedError(f"the {name} ended with exit code {code}\n{tail}".rstrip())

    def signal(self, name: str, number: signal.Signals) -> None:
        """Sends a signal to one process."""
        os.kill(self.processes[name].pid, number)

    def kill(self, name: str) -> None:
        """Kills one process, as a crash would."""
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def stop(self) -> dict[str, int]:
        """Terminates all processes, the server last.

        Returns:
            Their exit codes; -9 for one that had to be killed.
        """
        codes: dict[str, int] = {}
        for name in ("web", "manager", "server"):
            process = self.processes.pop(name, None)
            if process is None:
                continue
            process.terminate()
            try:
                codes[name] = process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                codes[name] = process.wait()
        if codes.get("web") == -signal.SIGTERM:
            codes["web"] = 0  # uvicorn ends in order and then by the signal itself
        return codes
