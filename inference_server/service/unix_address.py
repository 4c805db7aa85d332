"""Reserves a `unix:` address if it is free: gRPC alone would remove another server's socket."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from inference_server.errors import ServerError

SCHEME: Final = "unix:"
LOCK_SECONDS: Final = 5.0
"""Longest wait for another server that is starting in the same folder."""

_CONNECT_SECONDS: Final = 2.0


class UnixAddressError(ServerError):
    """The address cannot be used; the message says why."""


@contextmanager
def reserved(address: str) -> Iterator[None]:
    """Locks the folder of the address while the body runs, and removes a dead socket.

    Args:
        address: "unix:path" or "unix:///path"; any other is ignored.

    Raises:
        UnixAddressError: another process listens on the path, or the path is not a socket.
    """
    if not address.startswith(SCHEME):
        yield
        return
    name = address.removeprefix(SCHEME)
    path = Path(name.removeprefix("//") if name.startswith("///") else name)
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise UnixAddressError(f"cannot open folder {path.parent}: {error.strerror}") from None
    try:
        _lock(folder, path.parent)
        _remove_dead_socket(path)
        yield
    finally:
        os.close(folder)


def _lock(folder: int, path: Path) -> None:
    end = time.monotonic() + LOCK_SECONDS
    while True:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES) or time.monotonic() >= end:
                raise UnixAddressError(
                    f"folder {path} is locked by another process: {error.strerror}"
                ) from None
            time.sleep(0.05)
        else:
            return


def _remove_dead_socket(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UnixAddressError(f"{path} already exists and is not a socket; name another path")
        if _listens(path):
            raise UnixAddressError(
                f"another process listens on {path}; stop it, or name another path"
            )
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnixAddressError(f"cannot check {path}: {error.strerror}") from None


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except (TimeoutError, BlockingIOError):
            return True  # its backlog is full
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
        return True
