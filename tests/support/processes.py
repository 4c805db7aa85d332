"""Runs a command and measures it: exit code, output, time, and peak memory."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class FinishedProcess:
    """The result of a process.

    The peak memory is sampled every 10 ms: what the kernel reports at the end includes this
    process's memory from before the other program was executed.
    """

    code: int
    """Exit code as from `subprocess`, negative for a signal."""
    stdout: str
    stderr: str
    seconds: float
    peak_rss: int
    """Bytes."""


def run(command: Sequence[str | Path], seconds: float, **options: Any) -> FinishedProcess:
    """Runs a command without standard input; kills it after a time limit.

    Args:
        command: The command and its arguments.
        seconds: Time limit.
        options: Options of `subprocess.Popen`; its stdout and stderr replace the captured files.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        streams = {"stdin": subprocess.DEVNULL, "stdout": out, "stderr": err}
        began, peak = time.monotonic(), 0
        process = subprocess.Popen(command, **(streams | options))
        while process.poll() is None:
            peak = _peak_rss(process.pid) or peak
            if time.monotonic() - began > seconds:
                process.kill()
            time.sleep(0.01)
        took = time.monotonic() - began
        texts = []
        for file in (out, err):
            file.seek(0)
            texts.append(file.read())
    return FinishedProcess(process.returncode, *texts, took, peak)


def _peak_rss(pid: int) -> int:
    """Returns the process's peak memory in bytes, 0 if it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) << 10 if match else 0
