"""A folder that no other user of the machine can enter, replace or redirect.

The sockets between server and LoRA manager lie in such a folder, and both check it before each use.
Root counts as the user itself.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import stat
from pathlib import Path
from typing import Final

_MAX_LINKS: Final = 40
"""Symbolic links followed in one path; the kernel's limit."""

_ADVICE: Final = "name another with --runtime-dir or $WULIART_RUNTIME_DIR"


class PrivateDirError(Exception):
    """The folder cannot be trusted; the message says in one line why and what to do."""


def open_private_dir(folder: Path) -> int:
    """Opens `folder` after checking that it belongs to the user and is closed to all others.

    It must not be a symbolic link, and its mode must be 0700. Every folder above it must belong to
    the user or to root; other users may write there only if the sticky bit keeps them from renaming
    the files of others.

    Returns:
        A descriptor of the folder.

    Raises:
        PrivateDirError: a check fails.
        OSError: the folder does not exist or cannot be opened.
    """
    folder = folder.absolute()
    _check_parents(folder)
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno == errno.ENOTDIR and folder.is_symlink():
            raise PrivateDirError(
                f"runtime folder {folder} is a symbolic link; {_ADVICE}"
            ) from None
        raise
    try:
        status = os.fstat(descriptor)
        mode = stat.S_IMODE(status.st_mode)
        if status.st_uid != os.geteuid():
            raise PrivateDirError(
                f"runtime folder {folder} belongs to user {status.st_uid}, not to user "
                f"{os.geteuid()}; {_ADVICE}"
            )
        if mode & stat.S_ISVTX:
            raise PrivateDirError(
                f"runtime folder {folder} is shared by all users (mode {mode:04o}); name one "
                "below it with --runtime-dir"
            )
        if mode & 0o077:
            raise PrivateDirError(
                f"runtime folder {folder} lets other users in (mode {mode:04o}); make it private "
                f"with `chmod 700 {folder}`, or {_ADVICE}"
            )
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check_parents(folder: Path) -> None:
    """Follows the path to `folder`, link by link, and checks each folder on the way."""
    current, links = Path("/"), 0
    pending = list(folder.parent.parts[1:])
    while True:
        _check_parent(current, folder)
        if not pending:
            return
        part = pending.pop(0)
        if part == "..":
            current = current.parent
            continue
        following = current / part
        status = following.lstat()
        if not stat.S_ISLNK(status.st_mode):
            current = following
            continue
        links += 1
        if links > _MAX_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(folder))
        if status.st_uid not in (0, os.geteuid()):
            raise PrivateDirError(
                f"{following}, on the way to runtime folder {folder}, is a symbolic link of user "
                f"{status.st_uid}; {_ADVICE}"
            )
        target = following.readlink()
        if target.is_absolute():
            current = Path("/")
        pending = [part for part in target.parts if part != "/"] + pending


def _check_parent(parent: Path, folder: Path) -> None:
    status = parent.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise PrivateDirError(
            f"{parent}, which holds runtime folder {folder}, belongs to user {status.st_uid}, who "
            f"could put another folder there; {_ADVICE}"
        )
    if status.st_mode & stat.S_ISVTX:
        return
    by_group = status.st_mode & stat.S_IWGRP and not _is_private_group(status.st_gid)
    if by_group or status.st_mode & stat.S_IWOTH:
        raise PrivateDirError(
            f"{parent}, which holds runtime folder {folder}, can be written by other users (mode "
            f"{stat.S_IMODE(status.st_mode):04o}), who could put another folder there; {_ADVICE}"
        )


def _is_private_group(gid: int) -> bool:
    """Returns True if the user is the only member, as of the group many systems give each user."""
    if gid == 0:
        return True
    try:
        user = pwd.getpwuid(os.geteuid())
        members = set(grp.getgrgid(gid).gr_mem)
    except KeyError:
        return False
    others = (other for other in pwd.getpwall() if other.pw_uid not in (0, user.pw_uid))
    return members <= {user.pw_name, "root"} and all(other.pw_gid != gid for other in others)
