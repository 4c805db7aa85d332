"""Keeps what was generated or measured, so that an interrupted run goes on where it stopped.

Owns the files below one folder: `KEY/NAME.npz` with an optional image and facts. A key is a
fingerprint of everything that determines the content but the order itself. Knows nothing of
models.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Kept(NamedTuple):
    """One entry."""

    facts: dict[str, Any]
    """Anything that JSON holds."""
    image: NDArray[np.uint8] | None = None
    """[..., 3, edge, edge]."""


def fingerprint(paths: Iterable[Path], *facts: str) -> str:
    """16 hex digits that change with any byte of the files (or of all files in folders)."""
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
        root: the folder.
        fresh: whether what is there already is left unread.
    """

    def __init__(self, root: Path, fresh: bool) -> None:
        self._root, self._fresh = root, fresh

    def read(self, key: str, name: str) -> Kept | None:
        """The entry, or None if there is none."""
        path = self._path(key, name)
        if self._fresh or not path.is_file():
            return None
        with np.load(path) as content:
            image = content.get("image")
            return Kept(json.loads(str(content["facts"])), image)

    def write(self, key: str, name: str, kept: Kept) -> None:
        """Keeps an entry; a reader never sees half of it."""
        path = self._path(key, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        content: dict[str, NDArray[Any]] = {"facts": np.array(json.dumps(kept.facts))}
        if kept.image is not None:
            content["image"] = kept.image
        partial = path.with_suffix(".partial")
        with partial.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **content)
        partial.replace(path)

    def _path(self, key: str, name: str) -> Path:
        return self._root / key / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.npz"
