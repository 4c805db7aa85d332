"""The folder and names of the Unix sockets between server and LoRA manager."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CONTROL_SOCKET: Final = "control.sock"
"""gRPC: `wuliart.internal.v1.SegmentService`."""

DESCRIPTOR_SOCKET: Final = "descriptors.sock"
"""Shows each side that the other runs as the same user, and passes the segment's descriptor."""

TOKEN_BYTES: Final = 32
"""Length of `AttachRequest.token`, which the server sends first over the descriptor socket."""

MAX_SOCKET_PATH: Final = 100
"""Bytes of a socket's whole path; Linux allows 107."""


def default_runtime_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """Returns the folder of the sockets if the command line names none.

    That is $WULIART_RUNTIME_DIR, else $XDG_RUNTIME_DIR/wuliart, else .local/state/wuliart/run in a
    home that belongs to the user, else /tmp/wuliart-<uid>. Another user may have created the last
    one; `private_dir` then rejects it.
    """
    if explicit := environment.get("WULIART_RUNTIME_DIR"):
        return Path(explicit)
    if session := environment.get("XDG_RUNTIME_DIR"):
        return Path(session) / "wuliart"
    if (home := environment.get("HOME")) and _is_own_home(Path(home)):
        folder = Path(home) / ".local/state/wuliart/run"
        if len(os.fsencode(folder / DESCRIPTOR_SOCKET)) <= MAX_SOCKET_PATH:
            return folder
    return Path(f"/tmp/wuliart-{os.geteuid()}")


def runtime_dir_problem(folder: Path) -> str:
    """Returns why sockets can never lie in `folder` and what to do; empty if they can."""
    length = len(os.fsencode(folder.absolute() / DESCRIPTOR_SOCKET))
    if length <= MAX_SOCKET_PATH:
        return ""
    return (
        f"--runtime-dir {folder} is too long for a Unix socket: {length} bytes with the socket's "
        f"name, and {MAX_SOCKET_PATH} is the limit; name a shorter one"
    )


def _is_own_home(home: Path) -> bool:
    try:
        status = home.stat()
    except OSError:
        return False
    return (
        home.is_absolute()
        and stat.S_ISDIR(status.st_mode)
        and status.st_uid == os.geteuid()
        and not status.st_mode & stat.S_IWOTH
        and os.access(home, os.W_OK | os.X_OK)
    )
