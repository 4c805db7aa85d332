"""What lies beside an adapter's file and says something of it.

Owns the names: the control files and the partial files of downloaders, and peft's
adapter_config.json. Opens no file.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

from lora_manager.candidates import LoraFile, Stamp
from wuliart_lora.sidecar import SIDECAR_NAME, SidecarOwners

CONTROL_SUFFIXES: Final = (".aria2", ".aria2__temp", ".st", ".lftp-pget-status")
"""Behind the name of a file that is being written in place: aria2, axel, lftp."""

PARTIAL_SUFFIXES: Final = (
    ".part", ".partial", ".tmp", ".temp", ".crdownload", ".download", ".opdownload", ".filepart",
    ".incomplete", ".!ut", ".!qb", ".bc!", ".az!", ".fdmdownload", ".dtapart", ".xltd", ".td",
    ".ucas", ".gstmp", *CONTROL_SUFFIXES,
)  # fmt: skip
"""Of files, and of Safari's folders, that get another name when they are finished: Firefox, KDE,
curl and wget in scripts, Chrome, Edge, Safari, Opera, WinSCP, FileZilla, Hugging Face, torrents,
rclone, gsutil. Those of rsync, Syncthing and lftp begin with a dot."""


class Folder:
    """One folder, asked for the names in it.

    Args:
        path: absolute and free of symbolic links.
        names: all names in it, if they have been listed already.
    """

    def __init__(self, path: str, names: Collection[str] | None = None) -> None:
        self.path = path
        self._names = names

    def has(self, name: str) -> bool:
        """Returns True if there is anything of that name."""
        if self._names is not None:
            return name in self._names
        return os.path.lexists(f"{self.path}/{name}")

    @cached_property
    def names(self) -> Collection[str]:
        """All names; none if the folder cannot be listed."""
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


def control_file(name: str, size: int, folder: Folder) -> str:
    """Name of the file that shows that `name` or its sidecar is not finished; empty if none.

    Partial files are such a sign only beside an empty file, which browsers put in the place of the
    one to come. Beside any other they belong to a next version, which replaces it when it is whole.
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
    """Path of the file that is finished when the one at `relative` goes; empty if there is none."""
    for suffix in CONTROL_SUFFIXES:
        if relative.endswith(suffix):
            return relative.removesuffix(suffix)
    return ""


def sidecar(name: str, folder: Folder, real_root: str) -> Sidecar:
    """The adapter_config.json that belongs to the file of that name in the folder."""
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
            return Sidecar()  # it has gone since it was listed
        return Sidecar(refusal=f"{SIDECAR_NAME} beside it cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Sidecar(refusal=f"{SIDECAR_NAME} beside it is not a regular file")
    return Sidecar(Path(target), Stamp.of(status))


def expects_sidecar(found: LoraFile) -> bool:
    """Returns True if an adapter_config.json is still to come, as peft names and writes its files.

    Without it the adapter would have another strength for a moment.
    """
    return (
        found.sidecar is None and found.relative.rpartition("/")[2] == "adapter_model.safetensors"
    )
