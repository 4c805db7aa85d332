"""What lies in the directory at one moment: names, stamps, and refusals that need no reading.

Owns the walk, the rules for names and for symbolic links. Knows nothing of earlier scans (see
admission.py), reads no file, and never raises for a single bad entry.
"""

from __future__ import annotations

import fcntl
import os
import stat
import unicodedata
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from wuliart.contract.limits import MAX_ADAPTER_NAME_CHARACTERS
from wuliart.contract.text import is_blank

SUFFIX: Final = ".safetensors"
PICKLE_SUFFIXES: Final = (".pt", ".bin", ".ckpt", ".pth")
UNFINISHED_SUFFIXES: Final = (".part", ".tmp", ".crdownload")

_BIDI: Final = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True, slots=True)
class Stamp:
    """What tells two versions of a file apart without reading it."""

    device: int
    inode: int
    size: int
    mtime_ns: int
    ctime_ns: int
    """Cannot be set, so that a copy which brings its mtime along is seen. Also changes when
    nothing else does: by a rename, a new link, or other permissions."""

    @classmethod
    def of(cls, status: os.stat_result) -> Stamp:
        """The stamp of one stat."""
        return cls(
            status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        )

    def may_be_renamed(self, other: Stamp) -> bool:
        """Whether a rename alone can have made the one stamp of the other."""
        return replace(self, ctime_ns=other.ctime_ns) == other


@dataclass(frozen=True, slots=True)
class Found:
    """One file of the directory."""

    name: str
    """The adapter's name."""
    relative: str
    """Path below the root, as listed: "/" between folders."""
    path: Path
    """Where its bytes are: absolute, free of symbolic links."""
    stamp: Stamp
    refusal: str = ""
    """Why it is refused without being read; empty if it should be read."""


@dataclass(frozen=True, slots=True)
class Scan:
    """The whole directory."""

    root: tuple[int, int]
    """(device, inode) of the root."""
    files: dict[str, Found]
    """By adapter name."""
    unreadable: frozenset[str] = frozenset()
    """Folders below the root that could not be listed; what lies in them is not known."""

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
    problem = ""
    if any("\ud800" <= c <= "\udfff" for c in name):
        problem = "its name is not valid UTF-8; rename it"
    elif any(c in _BIDI or unicodedata.category(c) in ("Cc", "Zl", "Zp") for c in name):
        problem = "its name has control or text-direction characters; rename it"
    elif is_blank(name.rpartition("/")[2]):
        problem = "its name is blank; rename it"
    elif len(name) > MAX_ADAPTER_NAME_CHARACTERS:
        problem = (
            f"its name has {len(name)} characters, folders included, and "
            f"{MAX_ADAPTER_NAME_CHARACTERS} is the limit; rename it"
        )
    return (_printable(name), problem) if problem else (name, "")


def _printable(name: str) -> str:
    shown = "".join(
        "\ufffd" if c in _BIDI or unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp") else c
        for c in name
    )
    shown = "\ufffd" if is_blank(shown) else shown
    too_long = len(shown) > MAX_ADAPTER_NAME_CHARACTERS
    return shown[: MAX_ADAPTER_NAME_CHARACTERS - 1] + "…" if too_long else shown


def scan(root: Path) -> Scan:
    """Walk the directory.

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

    while folders or links:
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
        files,
        frozenset(folder.rstrip("/") for folder in unreadable),
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


def precedence(found: Found) -> tuple[bool, bool, str]:
    """Of two files of one name the smaller wins: usable first, then .safetensors."""
    return bool(found.refusal), not found.relative.lower().endswith(SUFFIX), found.relative
