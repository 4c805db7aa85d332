"""What lies in the directory at one moment: names, stamps, and refusals that need no reading.

Owns the walk and the rules for symbolic links. Knows nothing of earlier scans (see
admission.py), reads no file, and never raises for a single bad entry.
"""

from __future__ import annotations

import fcntl
import os
import stat
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora_manager.found import SUFFIX, Found, Stamp, precedence, tell_apart
from wuliart.contract.adapter_names import name_problem, printable
from wuliart.contract.limits import MAX_LISTED_ADAPTERS

PICKLE_SUFFIXES: Final = (".pt", ".bin", ".ckpt", ".pth")
UNFINISHED_SUFFIXES: Final = (".part", ".tmp", ".crdownload")


@dataclass(frozen=True, slots=True)
class Scan:
    """The whole directory."""

    root: tuple[int, int]
    """(device, inode) of the root."""
    files: dict[str, Found]
    """By adapter name."""
    unreadable: frozenset[str] = frozenset()
    """Folders below the root that could not be listed; what lies in them is not known."""
    full: bool = False
    """True if there are more files than are listed; the walk ended at the last one."""

    def hides(self, relative: str) -> bool:
        """Whether a file is absent from `files` only because its folder could not be listed."""
        return covers(self.unreadable, relative)


def covers(paths: frozenset[str], relative: str) -> bool:
    """Whether `relative` or a folder above it is among `paths`."""
    if not paths:
        return False
    parts = relative.split("/")
    return any("/".join(parts[: n + 1]) in paths for n in range(len(parts)))


def is_ignored(relative: str) -> bool:
    """Whether a path is hidden, or named as an unfinished download."""
    return any(part.startswith(".") for part in relative.split("/")) or relative.lower().endswith(
        UNFINISHED_SUFFIXES
    )


def is_candidate(relative: str) -> bool:
    """Whether a file of this path is listed at all."""
    return relative.lower().endswith((SUFFIX, *PICKLE_SUFFIXES)) and not is_ignored(relative)


def adapter_name(relative: str) -> tuple[str, str]:
    """(name, why the name cannot be used or ""); an unusable name comes back made printable."""
    name = relative.rpartition(".")[0]
    problem = name_problem(name)
    return (printable(name), problem) if problem else (name, "")


def scan(root: Path) -> Scan:
    """Walk the directory, until `MAX_LISTED_ADAPTERS` files are found.

    Each folder is listed once, under its own path if it has one below the root, so links that
    form a loop end. Raises OSError if the root itself cannot be listed.
    """
    real_root = os.path.realpath(root)
    status = os.stat(real_root)  # noqa: PTH116
    files: dict[str, Found] = {}
    unreadable: set[str] = set()
    walked: set[tuple[int, int]] = set()
    folders: deque[tuple[str, str]] = deque([("", real_root)])
    links: deque[tuple[str, str]] = deque()

    def add(found: Found | None) -> None:
        if found is not None:
            other = files.get(found.name)
            if other is None or precedence(found) < precedence(other):
                files[found.name] = found

    while (folders or links) and len(files) < MAX_LISTED_ADAPTERS:
        # Links last: a folder that is also reachable by its own path is listed under that.
        below, folder = folders.popleft() if folders else links.popleft()
        try:
            identity = os.stat(folder)  # noqa: PTH116
            if (identity.st_dev, identity.st_ino) in walked:
                continue
            walked.add((identity.st_dev, identity.st_ino))
            with os.scandir(folder) as entries:
                listed = sorted(entries, key=lambda entry: entry.name)
        except OSError:
            if not below:
                raise
            unreadable.add(below)
            continue
        for entry in listed:
            if len(files) >= MAX_LISTED_ADAPTERS:
                break
            relative = below + entry.name
            if is_ignored(relative):
                continue
            if entry.is_symlink() and os.path.isdir(entry.path):  # noqa: PTH112
                target = os.path.realpath(entry.path)
                if _is_inside(real_root, target):
                    links.append((f"{relative}/", target))
                else:
                    add(_outside(relative, Path(entry.path), folder=True))
            elif entry.is_dir(follow_symlinks=False):
                folders.append((f"{relative}/", entry.path))
            elif is_candidate(relative):
                add(_describe(real_root, relative, entry.path))
    return Scan(
        (status.st_dev, status.st_ino),
        tell_apart(files),
        frozenset(folder.rstrip("/") for folder in unreadable),
        full=len(files) >= MAX_LISTED_ADAPTERS,
    )


def inspect(root: Path, relative: str) -> Found | None:
    """One file as `scan` would list it; None if it is not there or not listed."""
    if not is_candidate(relative):
        return None
    real_root = os.path.realpath(root)
    return _describe(real_root, relative, os.path.join(real_root, relative))  # noqa: PTH118


def is_closed(found: Found) -> bool:
    """Whether certainly nobody has the file open for writing.

    A read lease is granted only then (fcntl(2), F_SETLEASE), on file systems of this machine and
    for files of one's own; elsewhere nothing is certain. A writer that comes in that instant waits
    for it to end, and the kernel says so by SIGIO, which this process ignores.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(found.path, flags)
    except OSError:
        return False
    try:
        if Stamp.of(os.fstat(descriptor)) != found.stamp:
            return False
        fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    finally:
        os.close(descriptor)  # and with it the lease
    return True


def _describe(real_root: str, relative: str, path: str) -> Found | None:
    """`relative` below the root as a Found; None if it is not there or no regular file."""
    target = os.path.realpath(path)
    if not _is_inside(real_root, target):
        # As a scan says of it, or the two would take turns in listing it under two names.
        return _outside(relative, Path(path), folder=os.path.isdir(target))  # noqa: PTH112
    try:
        status = os.stat(target)  # noqa: PTH116
    except OSError:
        return None
    if not stat.S_ISREG(status.st_mode):
        return None
    name, refusal = adapter_name(relative)
    if not refusal and relative.lower().endswith(PICKLE_SUFFIXES):
        refusal = "a pickle can run code when it is opened; convert it to .safetensors"
    return Found(name, relative, Path(target), Stamp.of(status), refusal)


def _outside(relative: str, path: Path, *, folder: bool) -> Found | None:
    try:
        stamp = Stamp.of(path.lstat())
    except OSError:
        return None
    # A folder has no ending to take off; give it one, so that its whole name stays.
    name, _ = adapter_name(f"{relative}." if folder else relative)
    kind = "folder" if folder else "file"
    refusal = f"a link to a {kind} outside the watched directory; put the {kind} itself here"
    return Found(name, relative, path, stamp, refusal)


def _is_inside(real_root: str, target: str) -> bool:
    return target == real_root or target.startswith(real_root.rstrip("/") + "/")
