"""Thumbnails of adapters: which adapter has which, and the JPEGs, by their hash.

An adapter's thumbnail is shown once its JPEG is here, so that every hash that clients see can be
fetched. The JPEGs are passed on and never decoded.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final

from wuliart_contract.limits import MAX_THUMBNAIL_BYTES

_JPEG_START: Final = b"\xff\xd8\xff"


class Thumbnails:
    """The thumbnails of one catalog."""

    def __init__(self) -> None:
        self._hashes: dict[str, str] = {}
        self._jpegs: dict[str, bytes] = {}

    def report(self, hashes: Mapping[str, str], *, complete: bool = True) -> None:
        """Replaces which adapter has which thumbnail, and forgets the JPEGs that none has.

        Args:
            hashes: adapter's name -> its thumbnail's hash.
            complete: False adds to what is known.
        """
        self._hashes = dict(hashes) if complete else {**self._hashes, **hashes}
        self._jpegs = {h: self._jpegs[h] for h in self._hashes.values() if h in self._jpegs}

    @property
    def missing(self) -> list[str]:
        """Hashes of thumbnails that are reported and not here, sorted."""
        return sorted(set(self._hashes.values()) - self._jpegs.keys())

    def put(self, jpegs: Iterable[bytes]) -> None:
        """Keeps those of the JPEGs that are missing."""
        missing = set(self.missing)
        for jpeg in jpegs:
            if len(jpeg) <= MAX_THUMBNAIL_BYTES and jpeg.startswith(_JPEG_START):
                name = hashlib.sha256(jpeg).hexdigest()
                if name in missing:
                    self._jpegs[name] = jpeg

    def hash_of(self, name: str) -> str:
        """Returns the hash of an adapter's thumbnail; empty if none is here."""
        found = self._hashes.get(name, "")
        return found if found in self._jpegs else ""

    def jpeg(self, thumbnail_hash: str) -> bytes:
        """Returns the JPEG of this hash; empty if it is not here."""
        return self._jpegs.get(thumbnail_hash, b"")
