"""Asks the kernel whether another process has a file open for writing."""

from __future__ import annotations

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path

from lora_manager.lora_file import Stamp


class Writers(Enum):
    """The kernel's answer."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"
    """The file system grants no leases, the file is another user's, or it has changed."""


def open_quietly(path: Path) -> int:
    """Opens for reading, without blocking and without following a link at the path's end."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags)


def writers_of(descriptor: int, stamp: Stamp) -> Writers:
    """Asks for a read lease on the open file.

    The kernel grants it only if no process has the file open for writing (fcntl(2), F_SETLEASE),
    only on local file systems, and only to the file's owner (or with CAP_LEASE). EAGAIN means that
    the file is open; every other error means only that leases are not available. A writer that
    comes while the lease is held waits until it is released, and the kernel sends SIGIO, which
    this process ignores.

    Args:
        descriptor: the file.
        stamp: the state of the file that the answer is for.
    """
    try:
        if Stamp.of(os.fstat(descriptor)) != stamp:
            return Writers.UNKNOWN
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Writers.SOME if error.errno == errno.EAGAIN else Writers.UNKNOWN
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:  # the lease is being broken; it ends with the descriptor
        return Writers.UNKNOWN
    return Writers.NONE
