"""Opens a file of the watched directory as it was when it was admitted, or not at all.

Between a look at a path and the opening of it the file may be replaced: by another, by a link to a
file outside of the directory, by a pipe.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import Final

from lora_manager.lora_file import Stamp

_REPLACED: Final = (
    errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENXIO, errno.ESTALE,
)  # fmt: skip
"""Errors of `open` if a folder, a link, a socket or nothing is now in the file's place."""


class FileChangedError(Exception):
    """The file is no longer what was admitted; it will be admitted again when it is finished."""


class UnreadableError(Exception):
    """The operating system would not hand the bytes over; the message says why."""


@contextmanager
def admitted_file(path: Path, stamp: Stamp, name: str = "it") -> Iterator[FileIO]:
    """A file as it was admitted, with `stamp`; `name` is what a message calls it.

    If it is another when it is opened or when it is closed, FileChangedError takes the place of
    what was raised in between.
    """
    # O_NONBLOCK: a pipe put in the file's place meanwhile must not hang the worker.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        # With an opener the descriptor is closed also if it turns out to be a folder's.
        with open(path, "rb", buffering=0, opener=lambda name, _: os.open(name, flags)) as file:
            if Stamp.of(os.fstat(file.fileno())) != stamp or not _is_at(file, path):
                raise FileChangedError(str(path))
            try:
                yield file
            finally:
                if Stamp.of(os.fstat(file.fileno())) != stamp:
                    raise FileChangedError(str(path))
    except OSError as error:
        if error.errno in _REPLACED:
            raise FileChangedError(str(path)) from None
        raise UnreadableError(f"{name} cannot be read: {error.strerror or error}") from None


def _is_at(file: FileIO, path: Path) -> bool:
    """Returns False if a folder on the way was replaced by a link since the path was resolved."""
    try:
        return Path(f"/proc/self/fd/{file.fileno()}").readlink() == path
    except FileNotFoundError:
        return True  # there is no /proc here to say


def read_bytes(file: FileIO, count: int) -> bytes:
    """The next `count` bytes, or as many as there are."""
    pieces = []
    while count > 0 and (piece := file.read(count)):
        pieces.append(piece)
        count -= len(piece)
    return b"".join(pieces)
