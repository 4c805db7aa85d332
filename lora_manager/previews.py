"""Finds the preview image that belongs to each adapter's file, by its name.

Users of A1111, ComfyUI and Civitai keep `NAME.png` or `NAME.preview.png` beside `NAME.safetensors`.
Beside a link to an adapter's file it is the link's name that counts, then the name of its target.
No image is opened here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from lora_manager.lora_file import LoraFile, Stamp

SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp")
"""Endings of images that are read, in the order in which they count. Case does not matter."""

_ORDER: Final = tuple(f"{middle}{suffix}" for suffix in SUFFIXES for middle in ("", ".preview"))
"""What follows the adapter's name, in the order of A1111: `.png`, `.preview.png`, `.jpg`, …"""


@dataclass(frozen=True, slots=True)
class Preview:
    """An image beside an adapter's file."""

    path: Path
    """Absolute, free of symbolic links."""
    stamp: Stamp
    """Without the inode number, which not every file system keeps."""


def is_preview(relative: str) -> bool:
    """Returns True if a file of this path may be an adapter's preview image."""
    return relative.lower().endswith(SUFFIXES)


def find_previews(root: Path, files: Iterable[LoraFile]) -> dict[str, Preview]:
    """Returns the preview image of each file that has one, by adapter name.

    An image below the root counts, also through a link; one outside of it does not.
    """
    real_root = os.path.realpath(root)
    folders: dict[str, _Images] = {}

    def images(path: str) -> _Images:
        if path not in folders:
            folders[path] = _Images(path, real_root)
        return folders[path]

    found: dict[str, Preview] = {}
    for file in files:
        above, _, name = file.relative.rpartition("/")
        listed = os.path.realpath(f"{real_root}/{above}") if above else real_root
        preview = images(listed).of(name)
        if preview is None and str(file.path) != f"{listed}/{name}" and not file.refusal:
            preview = images(str(file.path.parent)).of(file.path.name)
        if preview is not None:
            found[file.name] = preview
    return found


class _Images:
    """The images of one folder; none if it cannot be listed."""

    def __init__(self, path: str, real_root: str) -> None:
        self._path = path
        self._real_root = real_root
        self._names: dict[str, str] = {}
        try:
            names = os.listdir(path)  # noqa: PTH208
        except OSError:
            names = []
        for name in sorted(filter(is_preview, names)):
            stem, dot, suffix = name.rpartition(".")
            middle = stem[-len(".preview") :] if stem.lower().endswith(".preview") else ""
            self._names.setdefault(
                f"{name.removesuffix(middle + dot + suffix)}{(middle + dot + suffix).lower()}", name
            )

    def of(self, file: str) -> Preview | None:
        """Returns the image of the adapter's file of this name."""
        stem = file.rpartition(".")[0]
        for ending in _ORDER:
            name = self._names.get(f"{stem}{ending}")
            if name is not None and (preview := self._described(name)) is not None:
                return preview
        return None

    def _described(self, name: str) -> Preview | None:
        """Returns the image of this name; None for a link that leads elsewhere, or no file."""
        path = f"{self._path}/{name}"
        try:
            status = os.lstat(path)
            if stat.S_ISLNK(status.st_mode):
                path = os.path.realpath(path)
                status = os.stat(path)  # noqa: PTH116
        except OSError:
            return None
        inside = path.startswith(self._real_root.rstrip("/") + "/")
        if not inside or not stat.S_ISREG(status.st_mode):
            return None
        return Preview(Path(path), Stamp.of(status).without_inode())
