"""Files beside an adapter's file that concern it: downloaders' control files, adapter_config.json.

Knows them by their names; none of them is opened here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from lora_manager.lora_file import LoraFile, Stamp
from wuliart_lora.sidecar import SIDECAR_NAME, SidecarOwners

CONTROL_SUFFIXES: Final = (".aria2", ".aria2__temp", ".st", ".lftp-pget-status")
"""Appended to the name of a file that is being written in place: aria2, axel, lftp."""

PARTIAL_SUFFIXES: Final = (
    ".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".opdownload", ".filepart",
    ".incomplete", ".!ut", ".!qb", ".bc!", ".az!", ".fdmdownload", ".dtapart", ".xltd", ".td",
    ".ucas", ".gstmp", *CONTROL_SUFFIXES,
)  # fmt: skip
"""Endings of files that get another name when they are finished: Firefox, KDE, curl and wget in
scripts, Chrome, Edge, Safari, Opera, WinSCP, FileZilla, Hugging Face, torrents, rclone, gsutil.
Names given by rsync, Syncthing and lftp begin with a dot."""

PARTIAL_FOLDER_SUFFIXES: Final = (".download", ".!ut", ".!qb", ".bc!", ".az!")
"""Endings of folders that downloaders make for a download in progress: Safari, torrents. The other
endings of files are left out: a user may well name a folder `v1.part` or `styles.temp`."""


class Folder:
    """The names in one folder.

    Args:
        path: absolute and free of symbolic links.
        names: all names in it, if they have been listed already. Without them single names are
            looked up, and the folder is listed only when all names are needed.
    """

    def __init__(self, path: str, names: Collection[str] | None = None) -> None:
        self.path = path
        self._names = names

    @classmethod
    def listed(cls, path: str) -> Folder:
        """Returns the folder with all its names; with none if it cannot be listed."""
        folder = cls(path)
        return cls(path, frozenset(folder.names))

    def has(self, name: str) -> bool:
        """Returns True if the folder contains an entry of that name."""
        if self._names is not None:
            return name in self._names
        return os.path.lexists(f"{self.path}/{name}")

    @cached_property
    def names(self) -> Collection[str]:
        """All names in the folder; none if it cannot be listed."""
        if self._names is not None:
            return self._names
        try:
            return os.listdir(self.path)  # noqa: PTH208
        except OSError:
            return ()

    @cached_property
    def tells_of_files(self) -> bool:
        """True if an adapter_config.json or a control file lies in it."""
        return self.has(SIDECAR_NAME) or any(n.endswith(CONTROL_SUFFIXES) for n in self.names)

    @cached_property
    def sidecar_owners(self) -> SidecarOwners | None:
        """The files that the folder's adapter_config.json may belong to; None if it has none."""
        return SidecarOwners(self.names) if self.has(SIDECAR_NAME) else None

    def owns_sidecar(self, name: str) -> bool:
        """Returns True if the folder's adapter_config.json belongs to the file of this name."""
        return self.sidecar_owners is not None and self.sidecar_owners.owns(name)


@dataclass(frozen=True, slots=True)
class Sidecar:
    """An adapter_config.json that belongs to a file."""

    path: Path | None = None
    stamp: Stamp | None = None
    refusal: str = ""
    """Why it cannot be used, and the adapter with it; empty if it can."""
    rival: str = ""
    """Another file that an adapter_config.json in the folder may belong to; empty if none."""


NO_SIDECAR: Final = Sidecar()


def control_file(name: str, size: int, folder: Folder) -> str:
    """Returns the name of a file that shows that `name` or its sidecar is not finished, or "".

    A partial file is a sign only beside an empty file, which browsers create as a placeholder.
    Beside any other file it belongs to a next version, which replaces the file when it is complete.
    """
    watched = (name, SIDECAR_NAME) if folder.owns_sidecar(name) else (name,)
    for control in (f"{one}{suffix}" for one in watched for suffix in CONTROL_SUFFIXES):
        if folder.has(control):
            return control
    if size:
        return ""
    begin = f"{name.rpartition('.')[0]}.".lower()
    partial = (
        other for other in folder.names
        if other.lower().startswith(begin) and other.lower().endswith(PARTIAL_SUFFIXES)
    )  # fmt: skip
    return min(partial, default="")


def finished_by(relative: str) -> str:
    """Returns the path of the file that is finished once the control file at `relative` is gone.

    Empty if that is not the name of a control file.
    """
    for suffix in CONTROL_SUFFIXES:
        if relative.endswith(suffix):
            return relative.removesuffix(suffix)
    return ""


def sidecar(name: str, folder: Folder, real_root: str) -> Sidecar:
    """Returns the adapter_config.json in the folder that belongs to the file of that name."""
    if not folder.owns_sidecar(name):
        owners = folder.sidecar_owners
        return Sidecar(rival=(owners and owners.rival(name)) or "")
    target = os.path.realpath(f"{folder.path}/{SIDECAR_NAME}")
    if not target.startswith(real_root.rstrip("/") + "/"):
        return Sidecar(
            refusal=f"{SIDECAR_NAME} beside it is a link to a file outside the watched directory; "
            "put the file itself there"
        )
    try:
        status = os.stat(target)  # noqa: PTH116
    except OSError as error:
        if not os.path.lexists(f"{folder.path}/{SIDECAR_NAME}"):
            return NO_SIDECAR  # removed since it was listed
        return Sidecar(refusal=f"{SIDECAR_NAME} beside it cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Sidecar(refusal=f"{SIDECAR_NAME} beside it is not a regular file")
    return Sidecar(Path(target), Stamp.of(status))


def either(link: Sidecar, target: Sidecar) -> Sidecar:
    """Returns the one that exists of a link's sidecar and its target's, or a refusal if both do."""
    same = target.path is not None and target.path == link.path
    if same or target == NO_SIDECAR:
        return link
    if link == NO_SIDECAR:
        return target
    return Sidecar(
        refusal=f"{SIDECAR_NAME} lies beside this link and also beside the file that it leads to; "
        "keep only the one that belongs to the file"
    )


def expects_sidecar(found: LoraFile) -> bool:
    """Returns True if peft has yet to write the adapter_config.json of this file.

    Without it the adapter would have another strength for a moment.
    """
    names = found.relative.rpartition("/")[2], found.path.name
    return found.sidecar is None and "adapter_model.safetensors" in names
