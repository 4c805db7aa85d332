"""Stores images and measurements on disk, so that an interrupted run resumes.

Entries are files `KEY/NAME.npz` with facts and an optional image. A key is a fingerprint of all
that determines the content apart from the image's own spec: weights, device, dtype.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class StoreEntry(NamedTuple):
    """One entry."""

    facts: dict[str, Any]
    """Values that JSON can represent."""
    image: NDArray[np.uint8] | None = None
    """uint8 [..., 3, edge, edge]."""


def fingerprint(paths: Iterable[Path], *facts: str) -> str:
    """Returns 16 hex digits that depend on all bytes of the files, and of files in folders."""
    digest = hashlib.sha256(json.dumps(facts).encode())
    for path in paths:
        files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
        for file in files:
            name = str(file.relative_to(path)) if path.is_dir() else ""
            content = hashlib.sha256(file.read_bytes()).hexdigest()
            digest.update(json.dumps([name, content]).encode())
    return digest.hexdigest()[:16]


class Store:
    """Entries by key and name.

    Args:
        root: Folder of the entries.
        fresh: Ignores existing entries.
    """

    def __init__(self, root: Path, fresh: bool) -> None:
        self._root, self._fresh = root, fresh

    def read(self, key: str, name: str) -> StoreEntry | None:
        """Returns the entry, or None if there is none."""
        path = self._path(key, name)
        if self._fresh or not path.is_file():
            return None
        with np.load(path) as content:
            image = content.get("image")
            return StoreEntry(json.loads(str(content["facts"])), image)

    def write(self, key: str, name: str, entry: StoreEntry) -> None:
        """Writes an entry atomically."""
        path = self._path(key, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, NDArray[Any]] = {"facts": np.array(json.dumps(entry.facts))}
        if entry.image is not None:
            content["image"] = entry.image
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **content)
        partial.replace(path)

    def _path(self, key: str, name: str) -> Path:
        return self._root / key / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
