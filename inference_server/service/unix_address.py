"""Takes a `unix:` address only if it is free: gRPC would remove another server's socket.

Owns the look at what is there and the lock that is held meanwhile. Knows nothing of who listens.
"""

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
"""For another server that is just starting in the same folder."""

_CONNECT_SECONDS: Final = 2.0


class UnixAddressError(ServerError):
    """The address cannot be taken; the message says why."""


@contextmanager
def reserved(address: str) -> Iterator[None]:
    """Keeps other servers from binding in the folder, and removes a socket that is dead.

    Args:
        address: "unix:path" or "unix:///path"; for others nothing is done.

    Raises:
        UnixAddressError: something listens there, or what is there is no socket.
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
        _make_way(path)
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


def _make_way(path: Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise UnixAddressError(f"{path} is there already and not a socket; name another path")
        if _listens(path):
            raise UnixAddressError(
                f"another server listens on {path}; stop it, or name another path"
            )
        path.unlink(missing_ok=True)
    except FileNotFoundError:
        return
    except OSError as error:
        raise UnixAddressError(f"cannot look at {path}: {error.strerror}") from None


def _listens(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_CONNECT_SECONDS)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
        except (TimeoutError, BlockingIOError):
            return True  # its queue is full
        except OSError as error:
            if error.errno != errno.EPROTOTYPE:
                raise
        return True
