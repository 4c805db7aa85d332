"""Whether another process may still write to a file: the kernel's answer, where it gives one."""

from __future__ import annotations

import errno
import fcntl
import os
from enum import Enum
from pathlib import Path

from lora_manager.candidates import Stamp


class Writers(Enum):
    """Who has a file open for writing."""

    NONE = "none"
    SOME = "some"
    UNKNOWN = "unknown"
    """The file system grants no leases, the file is another user's, or it has changed."""


def open_quietly(path: Path) -> int:
    """A descriptor for reading; waits for nothing and follows no link at the path's end."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    return os.open(path, flags)


def writers_of(descriptor: int, stamp: Stamp) -> Writers:
    """Asks for a read lease, which the kernel grants only on a file that no process has open for
    writing (fcntl(2), F_SETLEASE), on file systems of this machine and for files of one's own.

    EAGAIN says that the file is open; every other error says only that leases are not to be had.
    A writer that comes while the lease is held waits for its end, and the kernel says so by SIGIO,
    which this process ignores.
    """
    try:
        if Stamp.of(os.fstat(descriptor)) != stamp:
            return Writers.UNKNOWN
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        return Writers.SOME if error.errno == errno.EAGAIN else Writers.UNKNOWN
    try:
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except OSError:  # it is being broken; it ends with the descriptor
        return Writers.UNKNOWN
    return Writers.NONE
