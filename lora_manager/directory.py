"""Lists the watched directory: names, stamps, and refusals that need no reading.

The walk follows symbolic links as long as they stay below the root. It opens no file, and a single
bad entry never raises. What changed between two scans is decided in admission.py.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Final

from lora_manager.lora_file import SUFFIX, LoraFile, Stamp, precedence, tell_apart
from lora_manager.sidecars import PARTIAL_FOLDER_SUFFIXES, Folder, control_file, either, sidecar
from wuliart_contract.adapter_names import name_problem, printable
from wuliart_contract.limits import MAX_LISTED_ADAPTERS

PICKLE_SUFFIXES: Final = (".pt", ".bin", ".ckpt", ".pth")

NOTHING: Final[Mapping[str, LoraFile]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Scan:
    """The whole directory."""

    root: tuple[int, int]
    """(device, inode) of the root."""
    files: dict[str, LoraFile]
    """By adapter name."""
    unreadable: frozenset[str] = frozenset()
    """Folders below the root that could not be listed, so that their content is unknown."""
    folders: Mapping[str, int] = field(default_factory=dict)
    """Absolute path of each folder that was listed -> its mtime before that, in nanoseconds."""
    full: bool = False
    """True if the walk ended early because `MAX_LISTED_ADAPTERS` files were found."""

    def hides(self, relative: str) -> bool:
        """Returns True if the file may exist, because its folder could not be listed."""
        return covers(self.unreadable, relative)


def covers(paths: frozenset[str], relative: str) -> bool:
    """Returns True if `relative` or a folder above it is among `paths`."""
    if not paths:
        return False
    parts = relative.split("/")
    return any("/".join(parts[: n + 1]) in paths for n in range(len(parts)))


def is_ignored_folder(name: str) -> bool:
    """Returns True if the folder is hidden, or made by a downloader for what is not finished."""
    return name.startswith(".") or name.lower().endswith(PARTIAL_FOLDER_SUFFIXES)


@lru_cache(2 * MAX_LISTED_ADAPTERS)
def is_candidate(relative: str) -> bool:
    """Returns True if a file of this path is listed."""
    *folders, name = relative.split("/")
    return (
        name.lower().endswith((SUFFIX, *PICKLE_SUFFIXES))
        and not name.startswith(".")
        and not any(map(is_ignored_folder, folders))
    )


@lru_cache(2 * MAX_LISTED_ADAPTERS)
def adapter_name(relative: str) -> tuple[str, str]:
    """Returns the adapter's name, and why it cannot be used ("" if it can).

    A name that cannot be used comes back in a printable form.
    """
    name = relative.rpartition(".")[0]
    problem = name_problem(name)
    return (printable(name), problem) if problem else (name, "")


def scan(root: Path, before: Mapping[str, LoraFile] = NOTHING) -> Scan:
    """Walks the directory, until `MAX_LISTED_ADAPTERS` files are found.

    Each folder is listed once, under its own path if it has one below the root, so links that
    form a loop end.

    Args:
        root: the directory.
        before: the files of an earlier scan, by path. A file that has not changed is returned as
            the same object.

    Raises:
        OSError: the root itself cannot be listed.
    """
    real_root = os.path.realpath(root)
    root_status = os.stat(real_root)  # noqa: PTH116
    files: dict[str, LoraFile] = {}
    unreadable: set[str] = set()
    # By path: not every file system gives a folder an inode number that it keeps.
    walked: dict[str, Folder] = {}
    mtimes: dict[str, int] = {}
    targets: dict[str, Folder] = {}
    folders: deque[tuple[str, str]] = deque([("", real_root)])
    links: deque[tuple[str, str]] = deque()

    def add(found: LoraFile | None) -> None:
        if found is not None:
            other = files.get(found.name)
            if other is None or precedence(found) < precedence(other):
                files[found.name] = found

    while (folders or links) and len(files) < MAX_LISTED_ADAPTERS:
        # Links last: a folder that is also reachable by its own path is listed under that.
        below, path = folders.popleft() if folders else links.popleft()
        if path in walked:
            continue
        try:
            mtimes[path] = os.stat(path).st_mtime_ns  # noqa: PTH116
            with os.scandir(path) as entries:
                listed = {entry.name: entry for entry in sorted(entries, key=_name)}
        except OSError:
            if not below:
                raise
            walked[path] = Folder(path, ())
            unreadable.add(below)
            continue
        walked[path] = folder = Folder(path, listed.keys())
        for name, entry in listed.items():
            if len(files) >= MAX_LISTED_ADAPTERS:
                break
            if name.startswith("."):
                continue
            relative = below + name
            if entry.is_symlink():
                target = os.path.realpath(entry.path)
                if os.path.isdir(target):  # noqa: PTH112
                    if is_ignored_folder(name):
                        continue
                    if _is_inside(real_root, target):
                        links.append((f"{relative}/", target))
                    else:
                        add(_outside(relative, Path(entry.path), folder=True))
                elif is_candidate(name):
                    above = os.path.dirname(target)  # noqa: PTH120
                    beside = walked.get(above) or targets.get(above)
                    if beside is None:
                        beside = targets[above] = Folder.listed(above)
                    add(_describe_link(real_root, relative, entry.path, folder, beside))
            elif entry.is_dir(follow_symlinks=False):
                if not is_ignored_folder(name):
                    folders.append((f"{relative}/", entry.path))
            elif is_candidate(name):
                with suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    old = before.get(relative)
                    if old is not None and _is_as_before(old, entry.path, status, folder):
                        add(old)
                    else:
                        add(_describe(real_root, relative, entry.path, status, folder))
    return Scan(
        (root_status.st_dev, root_status.st_ino),
        tell_apart(files),
        frozenset(path.rstrip("/") for path in unreadable),
        mtimes,
        full=len(files) >= MAX_LISTED_ADAPTERS,
    )


def are_folders_unchanged(mtimes: Mapping[str, int]) -> bool:
    """Returns True if no file was added to, renamed in or removed from the folders.

    Args:
        mtimes: `Scan.folders` of an earlier scan.
    """
    try:
        return all(os.stat(path).st_mtime_ns == mtime for path, mtime in mtimes.items())  # noqa: PTH116
    except OSError:
        return False


def inspect(root: Path, relative: str) -> LoraFile | None:
    """Returns one file as `scan` lists it; None if it does not exist or is not listed."""
    if not is_candidate(relative):
        return None
    real_root = os.path.realpath(root)
    above, _, name = relative.rpartition("/")
    path = os.path.realpath(os.path.join(real_root, above))  # noqa: PTH118
    return _describe_link(real_root, relative, f"{path}/{name}", Folder(path))


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


def _is_as_before(old: LoraFile, path: str, status: os.stat_result, folder: Folder) -> bool:
    """Returns True if the file is `old`, and no file beside it concerns it."""
    stamp = old.stamp
    return (
        stamp.inode == status.st_ino
        and stamp.ctime_ns == status.st_ctime_ns
        and stamp.mtime_ns == status.st_mtime_ns
        and 0 < stamp.size == status.st_size
        and stamp.device == status.st_dev
        and old.sidecar is None
        and not old.sidecar_rival
        and not (old.refusal or old.control or folder.tells_of_files)
        and str(old.path) == path
        and stat.S_ISREG(status.st_mode)
    )


def _describe_link(
    real_root: str, relative: str, path: str, folder: Folder, beside: Folder | None = None
) -> LoraFile | None:
    """Describes the file that a symbolic link at `path`, or the file there, leads to.

    Args:
        real_root: the root, without symbolic links.
        relative: the path below the root under which the file is listed.
        path: absolute; its folder is free of symbolic links.
        folder: the folder that `path` lies in.
        beside: the folder that the link's target lies in, if it has been listed.

    Returns:
        None if there is no regular file.
    """
    target = os.path.realpath(path)
    if not _is_inside(real_root, target):
        # The same entry as in a scan, or the file would be listed under two names in turn.
        return _outside(relative, Path(path), folder=os.path.isdir(target))  # noqa: PTH112
    try:
        status = os.stat(target)  # noqa: PTH116
    except OSError:
        return None
    if target == path:
        return _describe(real_root, relative, target, status, folder)
    beside = beside or Folder(os.path.dirname(target))  # noqa: PTH120
    return _describe(real_root, relative, target, status, folder, beside)


def _describe(
    real_root: str,
    relative: str,
    target: str,
    status: os.stat_result,
    folder: Folder,
    beside: Folder | None = None,
) -> LoraFile | None:
    """Describes the file at `target`; None if it is not a regular file.

    `beside` is the folder of `target` if the file is listed through a link, which lies in `folder`.
    """
    if not stat.S_ISREG(status.st_mode):
        return None
    name, refusal = adapter_name(relative)
    stamp = Stamp.of(status)
    if refusal or relative.lower().endswith(PICKLE_SUFFIXES):
        pickle = "a pickle can run code when it is opened; convert it to .safetensors"
        return LoraFile(name, relative, Path(target), stamp, refusal or pickle)
    file = relative.rpartition("/")[2]
    config = sidecar(file, folder, real_root)
    control = control_file(file, stamp.size, folder)
    if beside is not None:
        file = target.rpartition("/")[2]
        config = either(config, sidecar(file, beside, real_root))
        if not control and (control := control_file(file, stamp.size, beside)):
            control = os.path.relpath(f"{beside.path}/{control}", real_root)
    return LoraFile(
        name, relative, Path(target), stamp, config.refusal, config.path, config.stamp,
        config.rival, control,
    )  # fmt: skip


def _outside(relative: str, path: Path, *, folder: bool) -> LoraFile | None:
    try:
        stamp = Stamp.of(path.lstat())
    except OSError:
        return None
    # A folder has no ending to remove; with an empty one its whole name stays.
    name, _ = adapter_name(f"{relative}." if folder else relative)
    kind = "folder" if folder else "file"
    refusal = f"a link to a {kind} outside the watched directory; put the {kind} itself here"
    return LoraFile(name, relative, path, stamp, refusal)


def _is_inside(real_root: str, target: str) -> bool:
    return target == real_root or target.startswith(real_root.rstrip("/") + "/")
