"""Finds the file systems that do not promise inode numbers, and takes those out of stamps there.

ipfs, rclone and other FUSE mounts may number a file anew at every look, or not at all. There a
file's size and mtime say whether it has changed, and the hash of its content.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Final

from lora_manager.directory import Scan
from lora_manager.lora_file import LoraFile, Stamp

log = logging.getLogger(__name__)


_NUMBERS: Final = 4
"""Inode numbers of one path, at the same size and times, that prove them unstable. A link that is
switched between two versions has two."""


class InodeNumbers:
    """Observations of inode numbers, kept from one look at the directory to the next.

    Args:
        stat: returns the stamp of the file at a path; raises OSError.
    """

    def __init__(self, stat: Callable[[Path], Stamp]) -> None:
        self._stat = stat
        self._unstable: set[int] = set()
        """Devices."""
        self._numbers: dict[Path, set[int]] = {}

    def settle(self, scan: Scan, before: Mapping[str, LoraFile]) -> Scan:
        """The scan as it is to be compared with others; `before` is what was seen by path."""
        for found in scan.files.values():
            old = before.get(found.relative)
            if old is not None and old is not found:
                self._compare(found.path, old.stamp, found.stamp)
        if not self._unstable:
            return scan
        device, inode = scan.root
        root = (device, 0 if device in self._unstable else inode)
        return replace(
            scan, root=root, files={name: self.of(found) for name, found in scan.files.items()}
        )

    def of(self, found: LoraFile) -> LoraFile:
        """The file with the stamps that are to be compared."""
        stamp, beside = found.stamp, found.sidecar_stamp
        if stamp.device in self._unstable:
            stamp = stamp.without_inode()
        if beside is not None and beside.device in self._unstable:
            beside = beside.without_inode()
        return replace(found, stamp=stamp, sidecar_stamp=beside)

    def _compare(self, path: Path, before: Stamp, now: Stamp) -> None:
        if now.device in self._unstable or not now.differs_in_identity_only(before):
            return
        unstable = False
        if before.ctime_ns == now.ctime_ns:
            numbers = self._numbers.setdefault(path, {before.inode})
            numbers.add(now.inode)
            unstable = len(numbers) >= _NUMBERS
        if not unstable:
            try:
                # Of a file that was replaced, two looks in a row say the same.
                unstable = self._stat(path).differs_in_identity_only(self._stat(path))
            except OSError:
                return
        if unstable:
            self._unstable.add(now.device)
            self._numbers.clear()
            log.warning(
                "the file system of %s changes the inode numbers of unchanged files; there, "
                "size and time decide whether a file has changed", path,
            )  # fmt: skip
