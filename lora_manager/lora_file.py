"""One file of the watched directory, and which of two that claim the same name has it.

Names that a reader cannot tell apart count as the same name.
"""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Final

from wuliart_contract.adapter_names import REPLACEMENT, printable
from wuliart_contract.limits import MAX_ADAPTER_NAME_CHARACTERS, MAX_LISTED_ADAPTERS
from wuliart_contract.text import code_point, is_ignorable, skeleton

SUFFIX: Final = ".safetensors"

_look = lru_cache(2 * MAX_LISTED_ADAPTERS)(skeleton)


@dataclass(frozen=True, slots=True, eq=False)
class Stamp:
    """File metadata that distinguishes two versions of a file without reading it.

    A stamp without an inode number is compared by device, size and mtime alone.
    """

    device: int
    inode: int
    """0 where the file system does not promise it; the ctime then counts as little."""
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

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Stamp):
            return NotImplemented
        if self._content() != other._content():
            return False
        return 0 in (self.inode, other.inode) or (
            self.inode == other.inode and self.ctime_ns == other.ctime_ns
        )

    def __hash__(self) -> int:
        return hash(self._content())

    @property
    def touched_ns(self) -> int:
        """When the file was last changed in any way, in nanoseconds since 1970.

        A copy that brings its mtime along is as old as its ctime.
        """
        return self.mtime_ns if self.inode == 0 else max(self.mtime_ns, self.ctime_ns)

    def may_be_renamed(self, other: Stamp) -> bool:
        """Returns True if a rename alone can have made the one stamp of the other."""
        return 0 != self.inode == other.inode and self._content() == other._content()

    def differs_in_identity_only(self, other: Stamp) -> bool:
        """Returns True if size and mtime are the other's, and inode number or ctime are not."""
        return self != other and self._content() == other._content()

    def without_inode(self) -> Stamp:
        """The stamp on a file system that does not promise inode numbers."""
        return replace(self, inode=0)

    def _content(self) -> tuple[int, int, int]:
        return self.device, self.size, self.mtime_ns


@dataclass(frozen=True, slots=True)
class LoraFile:
    """One file of the directory."""

    name: str
    """The adapter's name."""
    relative: str
    """Path below the root, as listed: "/" between folders."""
    path: Path
    """Path of its bytes: absolute, free of symbolic links."""
    stamp: Stamp
    refusal: str = ""
    """Why it is refused without being read; empty if it should be read."""
    sidecar: Path | None = None
    """Path of its adapter_config.json: absolute, free of symbolic links; None if it has none."""
    sidecar_stamp: Stamp | None = None
    sidecar_rival: str = ""
    """Another file that an adapter_config.json in the folder may belong to; empty if none."""
    control: str = field(default="", compare=False)
    """Name of a downloader's file beside it, which says that this one is not finished."""
    look: str = field(init=False, compare=False)
    """The skeleton of its path without the ending: the same for files that look alike."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "look", _look(self.relative.rpartition(".")[0]))


def precedence(found: LoraFile) -> tuple[bool, bool, str]:
    """Returns a sort key for files of one name, smallest first: usable, then .safetensors."""
    return bool(found.refusal), not found.relative.lower().endswith(SUFFIX), found.relative


def tell_apart(files: Mapping[str, LoraFile]) -> dict[str, LoraFile]:
    """The same files by name, of those that look alike all but one refused.

    The one whose name is as it looks stays, else the first by precedence. The others are listed
    under that look with a mark behind it.
    """
    if len({found.look for found in files.values()}) == len(files):
        return dict(files)
    alike: dict[str, list[LoraFile]] = {}
    for found in files.values():
        alike.setdefault(found.look, []).append(found)
    apart = dict(files)
    for look, group in alike.items():
        group.sort(key=lambda f: (bool(f.refusal), f.name != look, precedence(f)))
        for twin in group[1:]:
            if skeleton(twin.name) != look:
                continue  # refused for its name, which is shown in another way already
            del apart[twin.name]
            shown = f"{look[: MAX_ADAPTER_NAME_CHARACTERS - 1]}{REPLACEMENT}"
            refusal = twin.refusal or _likeness(twin, group[0])
            apart.setdefault(shown, replace(twin, name=shown, refusal=refusal))
    return apart


def _likeness(twin: LoraFile, other: LoraFile) -> str:
    """Why the twin is refused."""
    name = twin.name
    odd = [c for c in name if is_ignorable(c)] or [c for c in name if c.isspace() and c != " "]
    if odd:
        how = f"only by {code_point(odd[0])}"
    elif unicodedata.is_normalized("NFC", name):
        how = "only by spaces"
    else:
        how = "only in how its letters are encoded (Unicode NFC or NFD)"
    return (
        f'its name looks like that of "{printable(other.relative)}" and differs {how}; rename one '
        "of the two"
    )
