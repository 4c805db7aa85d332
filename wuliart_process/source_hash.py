"""A hash of Python sources, for caches that only the code that wrote them may read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path


def source_hash(roots: Iterable[Path]) -> str:
    """Returns the SHA-256, in hexadecimal, of files and of all *.py files below folders.

    Names and lengths are hashed too: content that moves to another file is another hash.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for root in roots:
        for path in sorted(root.rglob("*.py")) if root.is_dir() else [root]:
            content = path.read_bytes()
            digest.update(f"\0{path.relative_to(root.parent)}\0{len(content)}\0".encode())
            digest.update(content)
    return digest.hexdigest()
