"""The folder of the sockets between server and manager: private, and one server's only.

Owns its permissions and its lock; knows nothing of what is put there.
"""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

from inference_server.errors import ServerError

LOCK_FILE = "server.lock"


class RuntimeDirError(ServerError):
    """The folder cannot be used; the message says why."""


def claim(folder: Path) -> int:
    """Creates the folder for its owner alone and locks it; returns the lock's descriptor.

    gRPC creates Unix sockets that anyone may connect to; the folder is what keeps others out.

    Raises:
        RuntimeDirError: it belongs to somebody else, is open to others, or another server uses it.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
        if status.st_uid != os.geteuid():
            raise RuntimeDirError(
                f"runtime folder {folder} belongs to user {status.st_uid}; name another with "
                "--runtime-dir"
            )
        if status.st_mode & stat.S_ISVTX:
            raise RuntimeDirError(
                f"runtime folder {folder} is shared by all users; name one below it with "
                "--runtime-dir"
            )
        folder.chmod(0o700)
        lock = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise RuntimeDirError(f"cannot use runtime folder {folder}: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise RuntimeDirError(
            f"another server uses runtime folder {folder}; stop it, or name another folder with "
            "--runtime-dir"
        ) from None
    return lock
