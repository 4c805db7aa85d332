"""Creates and locks the folder of the sockets between server and manager.

The folder is private to one user (`wuliart_process.private_dir`) and used by one server at a time.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from inference_server.errors import ServerError
from wuliart_process.private_dir import PrivateDirError, open_private_dir

LOCK_FILE = "server.lock"


class RuntimeDirError(ServerError):
    """The runtime folder cannot be used; the message says why."""


def claim(folder: Path) -> int:
    """Creates the folder with mode 0700 if it is missing, and locks it.

    An existing folder is used as it is or refused; its mode is never changed.

    Returns:
        The lock's file descriptor; closing it releases the lock.

    Raises:
        RuntimeDirError: the folder is not private, cannot be used, or another server uses it.
    """
    try:
        _create(folder)
        descriptor = open_private_dir(folder)
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            lock = os.open(LOCK_FILE, flags, 0o600, dir_fd=descriptor)
        finally:
            os.close(descriptor)
    except PrivateDirError as error:
        raise RuntimeDirError(str(error)) from None
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


def _create(folder: Path) -> None:
    """Creates the folder and its missing parents, all with mode 0700."""
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)
