"""Files that a person names and a stranger may have made: opened only if they are regular files.

A pipe, a device or a socket under a file's name would block or never end. Opening one fails here
at once, with an OSError like that of a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
"""0 on Windows, where a file's name never stands for a pipe."""


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file, or a link to one, for reading; does not wait for anything.

    Raises:
        OSError: it cannot be opened or is not a regular file; `strerror` says which.
    """
    file = open(  # noqa: SIM115 - the caller closes it
        path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)
    )
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file
