"""A command as a process of its own, and what it came to: code, output, time and memory."""

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
class Ended:
    """A process that has ended; `code` as of `subprocess`, `peak_rss` in bytes.

    The memory is looked at every 10 ms, because what the kernel reports at the end includes the
    memory of this process from before the other program was started.
    """

    code: int
    stdout: str
    stderr: str
    seconds: float
    peak_rss: int


def run(command: Sequence[str | Path], seconds: float, **options: Any) -> Ended:
    """Runs a command without standard input; kills it after so many seconds.

    Args:
        command: with its arguments.
        seconds: what it takes at most.
        options: of `subprocess.Popen`; those for stdout and stderr take the place of files.
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
    return Ended(process.returncode, *texts, took, peak)


def _peak_rss(pid: int) -> int:
    """Bytes; 0 if the process has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    match = re.search(r"VmHWM:\s+(\d+) kB", status)
    return int(match[1]) << 10 if match else 0
