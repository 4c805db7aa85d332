"""Opens regular files only, for paths that come from a user or a downloaded folder.

Reading a pipe, a device or a socket could block or never end. Opening one fails here at once, with
an OSError as for a missing file.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import Final

_NONBLOCK: Final = getattr(os, "O_NONBLOCK", 0)
"""0 on Windows, where a path of a file never names a pipe."""


def open_regular(path: Path) -> BufferedReader:
    """Opens a regular file, or a link to one, for reading, without blocking.

    Raises:
        OSError: the file cannot be opened, or is not a regular file; `strerror` says which.
    """
    file = open(  # noqa: SIM115 - the caller closes it
        path, "rb", opener=lambda name, flags: os.open(name, flags | _NONBLOCK)
    )
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    return file
