"""Where server and LoRA manager meet: the folder of their sockets, and the sockets' names.

Owns what both sides must agree on before they can talk; opens nothing.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Final

CONTROL_SOCKET: Final = "control.sock"
"""gRPC: `wuliart.internal.v1.SegmentService`."""

DESCRIPTOR_SOCKET: Final = "descriptors.sock"
"""Proves to each side that the other is the same user, and hands out the segment's descriptor."""

TOKEN_BYTES: Final = 32
"""What the server sends first over the descriptor socket; `AttachRequest.token`."""

MAX_SOCKET_PATH: Final = 100
"""Bytes of a socket's path, its name included; Linux takes at most 107."""


def default_runtime_dir(environment: Mapping[str, str] = os.environ) -> Path:
    """The folder of the sockets unless the command line names one.

    $WULIART_RUNTIME_DIR, else $XDG_RUNTIME_DIR/wuliart, else .local/state/wuliart/run in a home of
    the user's own, else /tmp/wuliart-<uid>. Another user can take the last one first; it is then
    refused (`private_dir`).
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
    """Why the sockets cannot lie there, whatever there is, and what to do; empty if they can."""
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
